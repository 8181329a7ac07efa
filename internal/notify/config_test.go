package notify

import (
	"fmt"
	"strings"
	"testing"
)

func goodAliyun() AliyunConfig {
	c := DefaultAliyunConfig()
	c.Enabled, c.AccessKeyID, c.SignName = true, "id", "sign"
	c.Credentials = Credentials{Secret: "secret-of-aliyun", CallbackToken: "0123456789abcdef"}
	c.Templates = []Code{{"task_due", "en", "SMS_1"}}
	return c
}

func goodTencent() TencentConfig {
	c := DefaultTencentConfig()
	c.Enabled, c.SecretID, c.AppID, c.SignName = true, "id", "1400006666", "sign"
	c.Credentials = Credentials{Secret: "secret-of-tencent", CallbackToken: "0123456789abcdef"}
	c.Templates = []Code{{"task_due", "en", "1110"}}
	return c
}

func goodTwilio() TwilioConfig {
	c := DefaultTwilioConfig()
	c.Enabled, c.AccountSID, c.From, c.Callback = true, "AC"+strings.Repeat("0", 32), "+15005550006", "https://epro.example.org/sms/twilio"
	c.Credentials = Credentials{Secret: "secret-of-twilio"}
	return c
}

func TestConfigProblemsAreNamed(t *testing.T) {
	aliyun := func(change func(*AliyunConfig)) error { c := goodAliyun(); change(&c); return c.Validate() }
	tencent := func(change func(*TencentConfig)) error { c := goodTencent(); change(&c); return c.Validate() }
	twilio := func(change func(*TwilioConfig)) error { c := goodTwilio(); change(&c); return c.Validate() }
	smtp := func(change func(*SMTPConfig)) error {
		c := DefaultSMTPConfig()
		c.Enabled, c.Host, c.From = true, "smtp.example.org", "eprod <no-reply@example.org>"
		change(&c)
		return c.Validate()
	}
	for name, c := range map[string]struct {
		err  error
		want string // empty: valid
	}{
		"Aliyun":           {aliyun(func(*AliyunConfig) {}), ""},
		"Tencent":          {tencent(func(*TencentConfig) {}), ""},
		"Twilio":           {twilio(func(*TwilioConfig) {}), ""},
		"Off":              {DefaultTwilioConfig().Validate(), ""},
		"Sandbox":          {aliyun(func(c *AliyunConfig) { c.Endpoint = "http://127.0.0.1:8099" }), ""},
		"SandboxContainer": {aliyun(func(c *AliyunConfig) { c.Endpoint = "http://sms-sandbox:8099" }), ""},
		"OpenNetwork":      {aliyun(func(c *AliyunConfig) { c.Endpoint = "http://dysmsapi.aliyuncs.com" }), "must be https"},
		"OpenAddress":      {aliyun(func(c *AliyunConfig) { c.Endpoint = "http://192.0.2.1" }), "must be https"},
		"EndpointPath":     {aliyun(func(c *AliyunConfig) { c.Endpoint = "https://a.example/x" }), "scheme and host only"},
		"NoKey":            {aliyun(func(c *AliyunConfig) { c.AccessKeyID = "" }), "accessKeyId"},
		"NoSecret":         {aliyun(func(c *AliyunConfig) { c.Credentials.Secret = "" }), "accessKeySecret"},
		"ShortToken":       {tencent(func(c *TencentConfig) { c.Credentials.CallbackToken = "short" }), "callbackToken"},
		"NoTemplates":      {tencent(func(c *TencentConfig) { c.Templates = nil }), "templates: is empty"},
		"TemplateTwice": {tencent(func(c *TencentConfig) {
			c.Templates = []Code{{"a", "zh-CN", "1"}, {"a", "zh-cn", "2"}}
		}), "stands there twice"},
		"TemplateHalf":  {tencent(func(c *TencentConfig) { c.Templates = []Code{{"a", "", "1"}} }), "templates[0]"},
		"NoApp":         {tencent(func(c *TencentConfig) { c.AppID = "" }), "appId"},
		"AccountSID":    {twilio(func(c *TwilioConfig) { c.AccountSID = "AC../x" }), "accountSid"},
		"CallbackQuery": {twilio(func(c *TwilioConfig) { c.Callback += "?a=b" }), "callback"},
		"NoCallback":    {twilio(func(c *TwilioConfig) { c.Callback = "" }), "callback"},
		"SMTP":          {smtp(func(*SMTPConfig) {}), ""},
		"SMTPAccount":   {smtp(func(c *SMTPConfig) { c.Username, c.Credentials.Secret, c.Helo = "u", "p", "epro.example.org" }), ""},
		"SMTPLocal":     {smtp(func(c *SMTPConfig) { c.Host, c.Port, c.Security, c.Helo = "::1", 25, "none", "[192.0.2.1]" }), ""},
		"SMTPOff":       {DefaultSMTPConfig().Validate(), ""},
		"SMTPOpen":      {smtp(func(c *SMTPConfig) { c.Security = "none" }), "in the clear"},
		"SMTPOpenLAN":   {smtp(func(c *SMTPConfig) { c.Security, c.Host = "none", "10.0.0.1" }), "in the clear"},
		"SMTPSecurity":  {smtp(func(c *SMTPConfig) { c.Security = "ssl" }), `security: "ssl": must be one of`},
		"SMTPNoHost":    {smtp(func(c *SMTPConfig) { c.Host = "" }), "host"},
		"SMTPHostPort":  {smtp(func(c *SMTPConfig) { c.Host = "smtp.example.org:587" }), "host"},
		"SMTPPort":      {smtp(func(c *SMTPConfig) { c.Port = 0 }), "port: 0"},
		"SMTPNoPass":    {smtp(func(c *SMTPConfig) { c.Username = "u" }), "password"},
		"SMTPNoUser":    {smtp(func(c *SMTPConfig) { c.Credentials.Secret = "p" }), "password"},
		"SMTPNoFrom":    {smtp(func(c *SMTPConfig) { c.From = "" }), "from"},
		"SMTPFromLine":  {smtp(func(c *SMTPConfig) { c.From = "a@example.org\r\nBcc: b@example.org" }), "from"},
		"SMTPHelo":      {smtp(func(c *SMTPConfig) { c.Helo = "a b" }), "helo"},
		"Content":       {twilio(func(c *TwilioConfig) { c.Templates = []Code{{"task_due", "en", "SMS_1"}} }), "HX"},
	} {
		t.Run(name, func(t *testing.T) {
			if c.want == "" && c.err != nil || c.want != "" && (c.err == nil || !strings.Contains(c.err.Error(), c.want)) {
				t.Errorf("got %v, want %q", c.err, c.want)
			}
		})
	}
}

func TestSecretsStayOutOfOutput(t *testing.T) {
	c := goodAliyun()
	text, err := c.Credentials.MarshalText()
	out := fmt.Sprintf("%v %+v %#v %s %v", c, c, c, text, err)
	for _, secret := range []string{c.Credentials.Secret, c.Credentials.CallbackToken} {
		if strings.Contains(out, secret) {
			t.Errorf("%q is in %s", secret, out)
		}
	}
}

func TestCodeOfTakesTheNearestLanguage(t *testing.T) {
	list := []Code{{"a", "en", "1"}, {"a", "zh", "2"}, {"a", "zh-TW", "3"}, {"b", "zh", "4"}}
	for language, want := range map[string]string{"zh-CN": "2", "zh-tw": "3", "fr": "1", "": "1"} {
		if got := codeOf(list, Message{Template: "a", Language: language}); got != want {
			t.Errorf("%s: got %s, want %s", language, got, want)
		}
	}
	if got := codeOf(list, Message{Template: "b", Language: "fr"}); got != "" {
		t.Errorf("a text that the recipient cannot be expected to read was chosen: %s", got)
	}
}
