package notify

import (
	"net/url"
	"testing"
	"time"
)

// The published example is "Fixed parameter values" in Alibaba Cloud's page "Request syntax and signature method V3".
func TestAliyunSignatureAsPublished(t *testing.T) {
	query := url.Values{"ImageId": {"win2019_1809_x64_dtc_zh-cn_40G_alibase_20230811.vhd"}, "RegionId": {"cn-shanghai"}}
	headers := map[string]string{
		"host": "ecs.cn-shanghai.aliyuncs.com", "x-acs-action": "RunInstances", "x-acs-content-sha256": sha256Hex(nil),
		"x-acs-date": "2023-10-26T10:22:32Z", "x-acs-signature-nonce": "3156853299f313e23d1673dc12e1703d", "x-acs-version": "2014-05-26",
	}
	signed := []string{"host", "x-acs-action", "x-acs-content-sha256", "x-acs-date", "x-acs-signature-nonce", "x-acs-version"}
	canonical := aliyunCanonical("POST", "/", query, headers, signed)
	if got := sha256Hex([]byte(canonical)); got != "7ea06492da5221eba5297e897ce16e55f964061054b7695beedaac1145b1e259" {
		t.Errorf("canonical request hashes to %s:\n%s", got, canonical)
	}
	if got := aliyunSignature("YourAccessKeySecret", canonical); got != "06563a9e1b43f5dfe96b81484da74bceab24a1d853912eee15083a6f0f3283c0" {
		t.Errorf("signature %s", got)
	}
}

// No published example holds characters that need escaping; the rule is in the same page, "Construct a canonicalized query string".
func TestAliyunQueryEscapes(t *testing.T) {
	if got := aliyunQuery(url.Values{"b": {"阿 +*~-_./"}, "a": {""}}); got != "a=&b=%E9%98%BF%20%2B%2A~-_.%2F" {
		t.Errorf("got %s", got)
	}
}

// The published examples are two editions of Tencent Cloud's page "Signature v3" (签名方法 v3). The older signs with a secret that ends in
// EXAMPLE, the current one with a secret that is printed as 32 asterisks and meant literally.
func TestTencentSignatureAsPublished(t *testing.T) {
	payload := []byte(`{"Limit": 1, "Filters": [{"Values": ["\u672a\u547d\u540d"], "Name": "instance-name"}]}`)
	at := time.Unix(1551113065, 0)
	headers := [][2]string{{"content-type", tencentType}, {"host", "cvm.tencentcloudapi.com"}, {"x-tc-action", "describeinstances"}}
	for name, c := range map[string]struct {
		headers                         [][2]string
		secret, signed, hash, signature string
	}{
		"Older": {headers[:2], "Gu5t9xGARNpq86cd98joQYCN3EXAMPLE", "content-type;host",
			"5ffe6a04c0664d6b969fab9a13bdab201d63ee709638e2749d62a09ca18d7031", "72e494ea809ad7a8c8f7a4507b9bddcbaa8e581f516e8da2f66e2c5a96525168"},
		"Current": {headers, "********************************", "content-type;host;x-tc-action",
			"7019a55be8395899b900fb5564e4200d984910f34794a27cb3fb7d10ff6a1e84", "10b1a37a7301a02ca19a647ad722d5e43b4b3cff309d421d85b46093f6ab6c4f"},
	} {
		t.Run(name, func(t *testing.T) {
			canonical, signed := tencentCanonical("POST", "/", "", c.headers, payload)
			if hash := sha256Hex([]byte(canonical)); hash != c.hash || signed != c.signed {
				t.Errorf("canonical request hashes to %s, signed %s:\n%s", hash, signed, canonical)
			}
			if got := tencentSignature(c.secret, "cvm", at, canonical); got != c.signature {
				t.Errorf("signature %s", got)
			}
			if got := tencentScope("cvm", at); got != "2019-02-25/cvm/tc3_request" {
				t.Errorf("scope %s", got)
			}
		})
	}
}

// The first two published examples are editions of Twilio's page "Webhooks Security" (validating signatures); the third, with a repeated
// parameter, stands in the tests of Twilio's helper libraries (RequestValidatorTest, testValidateWithArrayAndDuplicates).
func TestTwilioSignatureAsPublished(t *testing.T) {
	call := func(caller string) url.Values {
		return url.Values{"CallSid": {"CA1234567890ABCDE"}, "Caller": {caller}, "Digits": {"1234"}, "From": {caller}, "To": {"+18005551212"}}
	}
	for _, c := range []struct {
		address, want string
		form          url.Values
	}{
		{"https://example.com/myapp.php?foo=1&bar=2", "L/OH5YylLD5NRKLltdqwSvS0BnU=", call("+14158675310")},
		{"https://mycompany.com/myapp.php?foo=1&bar=2", "RSOYDt4T1cUTdK1PDd93/VVr8B8=", call("+14158675309")},
		{"https://mycompany.com/myapp.php?foo=1&bar=2", "IK+Dwps556ElfBT0I3Rgjkr1wJU=",
			url.Values{"Sid": {"CA123"}, "SidAccount": {"AC123"}, "Digits": {"5678", "1234", "1234"}}},
	} {
		if got := twilioSignature("12345", c.address, c.form); got != c.want {
			t.Errorf("got %s, want %s", got, c.want)
		}
	}
}
