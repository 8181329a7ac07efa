package notify

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Aliyun sends through Alibaba Cloud Short Message Service: Dysmsapi version 2017-05-25, RPC style, signature V3. Safe for concurrent use.
type Aliyun struct {
	Parts
	config  AliyunConfig
	gateway gateway
}

var _ Reporter = (*Aliyun)(nil)

const (
	aliyunScheme  = "ACS3-HMAC-SHA256"
	aliyunVersion = "2017-05-25"
)

// NewAliyun returns the sender. The config must be valid.
func NewAliyun(config AliyunConfig, parts Parts) *Aliyun {
	return &Aliyun{Parts: parts, config: config, gateway: newGateway(AliyunName, parts.Client)}
}

// Name returns AliyunName.
func (*Aliyun) Name() string { return AliyunName }

// Channel returns SMS.
func (*Aliyun) Channel() Channel { return SMS }

// aliyunAnswer is the part common to all operations; Code is OK or names what is wrong.
type aliyunAnswer struct {
	Code  string `json:"Code"`
	BizID string `json:"BizId"`
}

// Send calls SendSms. The reference is its BizId. See Sender.
func (a *Aliyun) Send(ctx context.Context, m Message) (string, error) {
	t, err := a.Templates.find(m)
	if err != nil {
		return "", err
	}
	code := codeOf(a.config.Templates, m)
	if code == "" {
		return "", errTemplateRefused(AliyunName, "no code for "+t.Key)
	}
	query := url.Values{"PhoneNumbers": {aliyunNumber(m.To)}, "SignName": {a.config.SignName}, "TemplateCode": {code},
		"OutId": {strconv.FormatInt(m.ID, 10)}}
	if len(t.Params) > 0 {
		params, err := json.Marshal(m.Params)
		if err != nil {
			return "", errTemplateRefused(AliyunName, "json")
		}
		query.Set("TemplateParam", string(params))
	}
	var answer aliyunAnswer
	if err := a.call(ctx, "SendSms", query, &answer); err != nil {
		return "", err
	}
	if !fitsReference(answer.BizID) {
		return "", a.gateway.garbage(http.StatusOK)
	}
	return answer.BizID, nil
}

// aliyunDetails is the answer of QuerySendDetails.
type aliyunDetails struct {
	List struct {
		Details []struct {
			ErrCode     string `json:"ErrCode"`
			OutID       string `json:"OutId"`
			ReceiveDate string `json:"ReceiveDate"`
			SendStatus  int    `json:"SendStatus"` // 1 waiting for a receipt, 2 failed, 3 delivered
		} `json:"SmsSendDetailDTO"`
	} `json:"SmsSendDetailDTOs"`
}

// Query calls QuerySendDetails for the days, as China counts them, on which the message can have been sent. It looks at the newest 50
// messages of the number on such a day. See Sender.
func (a *Aliyun) Query(ctx context.Context, m Message, reference string, sentAt time.Time) (Receipt, error) {
	receipt := Receipt{ID: m.ID, Provider: AliyunName, Reference: reference, State: Unknown, At: a.Now()}
	id := strconv.FormatInt(m.ID, 10)
	days := slices.Compact([]string{chinaTime(sentAt).Format("20060102"), chinaTime(sentAt.Add(10 * time.Minute)).Format("20060102")})
	for _, day := range days { // a message sent just before midnight may be filed under the next day
		query := url.Values{"PhoneNumber": {aliyunNumber(m.To)}, "SendDate": {day}, "PageSize": {"50"}, "CurrentPage": {"1"}}
		if reference != "" {
			query.Set("BizId", reference)
		}
		var answer aliyunDetails
		if err := a.call(ctx, "QuerySendDetails", query, &answer); err != nil {
			return Receipt{}, err
		}
		for _, d := range answer.List.Details {
			if d.OutID != id && (d.OutID != "" || reference == "") {
				continue
			}
			receipt.Code = printable(d.ErrCode)
			receipt.State = map[int]State{1: Accepted, 2: Failed, 3: Delivered}[d.SendStatus]
			if receipt.State == "" {
				receipt.State = Unknown
			}
			receipt.At = chinaDate(d.ReceiveDate, receipt.At)
			return receipt, nil
		}
	}
	return receipt, nil
}

// aliyunReport is one element of an SmsReport callback in HTTP batch push mode.
type aliyunReport struct {
	Success    *bool  `json:"success"`
	ErrCode    string `json:"err_code"`
	BizID      string `json:"biz_id"`
	OutID      string `json:"out_id"`
	ReportTime string `json:"report_time"`
}

// Receipts reads an SmsReport callback. Aliyun does not sign it: the address configured in its console must carry our token. See Sender.
func (a *Aliyun) Receipts(r *http.Request, body []byte) ([]Receipt, error) {
	if !tokenMatches(r, a.config.Credentials.CallbackToken) {
		return nil, errReceiptUnsigned(AliyunName)
	}
	var reports []aliyunReport
	if err := decodeReports(body, &reports); err != nil {
		return nil, err
	}
	receipts := make([]Receipt, len(reports))
	for i, report := range reports {
		id, _ := strconv.ParseInt(report.OutID, 10, 64) // 0 where another system of the same account sent it
		receipts[i] = Receipt{ID: id, Provider: AliyunName, Reference: report.BizID, Code: printable(report.ErrCode), State: Unknown,
			At: chinaDate(report.ReportTime, a.Now())}
		switch {
		case !fitsReference(report.BizID):
			return nil, errReceipt("biz_id must have 1 to 128 characters")
		case report.Success != nil && *report.Success:
			receipts[i].State = Delivered
		case report.Success != nil:
			receipts[i].State = Failed
		}
	}
	return receipts, nil
}

// call signs and sends one operation and reads its answer into out.
func (a *Aliyun) call(ctx context.Context, action string, query url.Values, out any) error {
	u, err := url.Parse(a.config.Endpoint)
	if err != nil {
		return errSenderRefused(AliyunName, "endpoint")
	}
	nonce := make([]byte, 16)
	if _, err := io.ReadFull(a.Random, nonce); err != nil {
		return errUnreachable(AliyunName, fmt.Errorf("nonce: %w", err))
	}
	headers := map[string]string{
		"host": u.Host, "x-acs-action": action, "x-acs-version": aliyunVersion, "x-acs-content-sha256": sha256Hex(nil),
		"x-acs-date": a.Now().UTC().Format(time.RFC3339), "x-acs-signature-nonce": hex.EncodeToString(nonce),
	}
	u.Path, u.RawQuery = "/", aliyunQuery(query)
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, u.String(), nil)
	if err != nil {
		return errSenderRefused(AliyunName, "endpoint")
	}
	for name, value := range headers {
		if name != "host" {
			r.Header.Set(name, value)
		}
	}
	names := slices.Sorted(maps.Keys(headers))
	signature := aliyunSignature(a.config.Credentials.Secret, aliyunCanonical(http.MethodPost, "/", query, headers, names))
	r.Header.Set("Authorization", aliyunScheme+" Credential="+a.config.AccessKeyID+",SignedHeaders="+strings.Join(names, ";")+",Signature="+signature)
	r.Header.Set("Accept", "application/json")
	status, body, err := a.gateway.call(r)
	if err != nil {
		return err
	}
	var answer aliyunAnswer
	if json.Unmarshal(body, &answer) != nil || answer.Code == "" {
		return a.gateway.garbage(status)
	}
	if answer.Code != "OK" {
		return aliyunRefusal(answer.Code)
	}
	if status != http.StatusOK || json.Unmarshal(body, out) != nil {
		return a.gateway.garbage(status)
	}
	return nil
}

// aliyunRefusal sorts the codes of "Error codes" of Short Message Service and the common ones of the API gateway. What begins with isp is
// a failure inside the gateway, after which nothing is certain; the rest was refused before anything was sent.
func aliyunRefusal(code string) error {
	switch {
	case strings.HasPrefix(code, "isp.") && code != "isp.RAM_PERMISSION_DENY", code == "InternalError", code == "ServiceUnavailable":
		return errOutcomeUnknown(AliyunName, fmt.Errorf("code %s", printable(code)))
	case strings.HasPrefix(code, "Throttling"), strings.HasSuffix(code, "_LIMIT_CONTROL"):
		return errThrottled(AliyunName, code)
	}
	switch strings.TrimPrefix(code, "isv.") {
	case "MOBILE_NUMBER_ILLEGAL", "MOBILE_COUNT_OVER_LIMIT", "BLACK_KEY_CONTROL_LIMIT", "DOMESTIC_NUMBER_NOT_SUPPORTED":
		return errNumberRefused(AliyunName, code)
	case "SMS_TEMPLATE_ILLEGAL", "TEMPLATE_MISSING_PARAMETERS", "TEMPLATE_PARAMS_ILLEGAL", "INVALID_JSON_PARAM", "INVALID_PARAMETERS",
		"PARAM_LENGTH_LIMIT", "PARAM_NOT_SUPPORT_URL", "SMS_CONTENT_ILLEGAL", "SMS_CONTENT_MISMATCH_TEMPLATE_TYPE":
		return errTemplateRefused(AliyunName, code)
	}
	return errSenderRefused(AliyunName, code)
}

// aliyunNumber writes a number as the service wants it: eleven digits inside mainland China, elsewhere country code and number.
func aliyunNumber(e164 string) string {
	digits := strings.TrimPrefix(e164, "+")
	if national, ok := strings.CutPrefix(digits, "86"); ok && len(national) == 11 {
		return national
	}
	return digits
}

// aliyunCanonical builds the canonical request of signature V3 for a request without a body. Headers are keyed by lower-case name; signed
// lists those to sign, sorted.
func aliyunCanonical(method, path string, query url.Values, headers map[string]string, signed []string) string {
	var b strings.Builder
	b.WriteString(method + "\n" + path + "\n" + aliyunQuery(query) + "\n")
	for _, name := range signed {
		b.WriteString(name + ":" + strings.TrimSpace(headers[name]) + "\n")
	}
	b.WriteString("\n" + strings.Join(signed, ";") + "\n" + headers["x-acs-content-sha256"])
	return b.String()
}

// aliyunSignature signs a canonical request with an AccessKeySecret.
func aliyunSignature(secret, canonical string) string {
	return hex.EncodeToString(hmacSHA256([]byte(secret), aliyunScheme+"\n"+sha256Hex([]byte(canonical))))
}

// aliyunQuery encodes as RFC 3986, sorted by name: a blank is %20.
func aliyunQuery(query url.Values) string { return strings.ReplaceAll(query.Encode(), "+", "%20") }
