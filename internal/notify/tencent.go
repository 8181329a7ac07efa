package notify

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// Tencent sends through Tencent Cloud SMS: API 3.0 version 2021-01-11, signature v3. Safe for concurrent use.
type Tencent struct {
	Parts
	config  TencentConfig
	gateway gateway
}

var _ Reporter = (*Tencent)(nil)

const (
	tencentScheme  = "TC3-HMAC-SHA256"
	tencentVersion = "2021-01-11"
	tencentService = "sms"
	tencentType    = "application/json; charset=utf-8"
)

// NewTencent returns the sender. The config must be valid.
func NewTencent(config TencentConfig, parts Parts) *Tencent {
	return &Tencent{Parts: parts, config: config, gateway: newGateway(TencentName, parts.Client)}
}

// Name returns TencentName.
func (*Tencent) Name() string { return TencentName }

// Channel returns SMS.
func (*Tencent) Channel() Channel { return SMS }

// tencentSend is the request of SendSms.
type tencentSend struct {
	PhoneNumberSet   []string `json:"PhoneNumberSet"`
	SmsSdkAppID      string   `json:"SmsSdkAppId"`
	TemplateID       string   `json:"TemplateId"`
	SignName         string   `json:"SignName,omitempty"`
	TemplateParamSet []string `json:"TemplateParamSet,omitempty"`
	SessionContext   string   `json:"SessionContext"`
	SenderID         string   `json:"SenderId,omitempty"`
}

// tencentSent is the answer of SendSms: one status for each number.
type tencentSent struct {
	SendStatusSet []struct {
		SerialNo string `json:"SerialNo"`
		Code     string `json:"Code"`
	} `json:"SendStatusSet"`
}

// Send calls SendSms. The reference is its SerialNo. See Sender.
func (t *Tencent) Send(ctx context.Context, m Message) (string, error) {
	template, err := t.Templates.find(m)
	if err != nil {
		return "", err
	}
	code := codeOf(t.config.Templates, m)
	if code == "" {
		return "", errTemplateRefused(TencentName, "no code for "+template.Key)
	}
	request := tencentSend{PhoneNumberSet: []string{m.To}, SmsSdkAppID: t.config.AppID, TemplateID: code, SignName: t.config.SignName,
		TemplateParamSet: template.values(m), SessionContext: strconv.FormatInt(m.ID, 10)}
	if !strings.HasPrefix(m.To, "+86") {
		request.SenderID = t.config.From
	}
	var answer tencentSent
	if err := t.call(ctx, "SendSms", request, &answer); err != nil {
		return "", err
	}
	if len(answer.SendStatusSet) != 1 || answer.SendStatusSet[0].Code == "" {
		return "", t.gateway.garbage(http.StatusOK)
	}
	status := answer.SendStatusSet[0]
	if status.Code != "Ok" {
		return "", tencentRefusal(status.Code)
	}
	if !fitsReference(status.SerialNo) {
		return "", t.gateway.garbage(http.StatusOK)
	}
	return status.SerialNo, nil
}

// tencentPull is the request of PullSmsSendStatusByPhoneNumber; times are Unix seconds.
type tencentPull struct {
	BeginTime   int64  `json:"BeginTime"`
	EndTime     int64  `json:"EndTime"`
	Offset      int    `json:"Offset"` // must be 0
	Limit       int    `json:"Limit"`  // at most 100
	PhoneNumber string `json:"PhoneNumber"`
	SmsSdkAppID string `json:"SmsSdkAppId"`
}

// tencentPulled is its answer: messages with a final state.
type tencentPulled struct {
	PullSmsSendStatusSet []struct {
		UserReceiveTime int64  `json:"UserReceiveTime"`
		SerialNo        string `json:"SerialNo"`
		ReportStatus    string `json:"ReportStatus"` // SUCCESS or FAIL
		Description     string `json:"Description"`
		SessionContext  string `json:"SessionContext"` // filled once Tencent's support has switched it on for the account
	} `json:"PullSmsSendStatusSet"`
}

// Query calls PullSmsSendStatusByPhoneNumber from shortly before sentAt until now; Tencent keeps seven days. Without a reference it
// recognises the message by its session context, which Tencent returns only to accounts that asked its support for it. See Sender.
func (t *Tencent) Query(ctx context.Context, m Message, reference string, sentAt time.Time) (Receipt, error) {
	receipt := Receipt{ID: m.ID, Provider: TencentName, Reference: reference, State: Unknown, At: t.Now()}
	request := tencentPull{BeginTime: sentAt.Add(-5 * time.Minute).Unix(), EndTime: receipt.At.Add(5 * time.Minute).Unix(), Limit: 100,
		PhoneNumber: m.To, SmsSdkAppID: t.config.AppID}
	var answer tencentPulled
	if err := t.call(ctx, "PullSmsSendStatusByPhoneNumber", request, &answer); err != nil {
		return Receipt{}, err
	}
	id := strconv.FormatInt(m.ID, 10)
	for _, s := range answer.PullSmsSendStatusSet {
		if !fitsReference(s.SerialNo) || s.SessionContext != id && (reference == "" || s.SerialNo != reference) {
			continue
		}
		receipt.Reference, receipt.Code, receipt.State = s.SerialNo, printable(s.Description), tencentState(s.ReportStatus)
		if s.UserReceiveTime > 0 {
			receipt.At = time.Unix(s.UserReceiveTime, 0)
		}
		return receipt, nil
	}
	return receipt, nil
}

// tencentReport is one element of a "SMS Sending Status Notification" callback.
type tencentReport struct {
	UserReceiveTime string `json:"user_receive_time"`
	ReportStatus    string `json:"report_status"`
	ErrMsg          string `json:"errmsg"`
	SID             string `json:"sid"`
}

// Receipts reads a status callback. It knows the message by reference only, so ID is 0. Tencent does not sign it: the address configured
// in its console must carry our token. See Sender.
func (t *Tencent) Receipts(r *http.Request, body []byte) ([]Receipt, error) {
	if !tokenMatches(r, t.config.Credentials.CallbackToken) {
		return nil, errReceiptUnsigned(TencentName)
	}
	var reports []tencentReport
	if err := decodeReports(body, &reports); err != nil {
		return nil, err
	}
	receipts := make([]Receipt, len(reports))
	for i, report := range reports {
		if !fitsReference(report.SID) {
			return nil, errReceipt("sid must have 1 to 128 characters")
		}
		receipts[i] = Receipt{Provider: TencentName, Reference: report.SID, Code: printable(report.ErrMsg), State: tencentState(report.ReportStatus),
			At: chinaDate(report.UserReceiveTime, t.Now())}
	}
	return receipts, nil
}

func tencentState(report string) State {
	switch report {
	case "SUCCESS":
		return Delivered
	case "FAIL":
		return Failed
	default:
		return Unknown
	}
}

// tencentFrame is around every answer.
type tencentFrame struct {
	Response json.RawMessage `json:"Response"`
}

// tencentError is inside an answer that refuses the whole request.
type tencentError struct {
	Error *struct {
		Code string `json:"Code"`
	} `json:"Error"`
}

// call signs and sends one operation and reads its answer into out.
func (t *Tencent) call(ctx context.Context, action string, request, out any) error {
	u, err := url.Parse(t.config.Endpoint)
	if err != nil {
		return errSenderRefused(TencentName, "endpoint")
	}
	payload, err := json.Marshal(request)
	if err != nil {
		return errTemplateRefused(TencentName, "json")
	}
	u.Path = "/"
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, u.String(), bytes.NewReader(payload))
	if err != nil {
		return errSenderRefused(TencentName, "endpoint")
	}
	now := t.Now().UTC()
	headers := [][2]string{{"content-type", tencentType}, {"host", u.Host}, {"x-tc-action", strings.ToLower(action)}}
	canonical, signed := tencentCanonical(http.MethodPost, "/", "", headers, payload)
	r.Header.Set("Content-Type", tencentType)
	r.Header.Set("X-TC-Action", action)
	r.Header.Set("X-TC-Version", tencentVersion)
	r.Header.Set("X-TC-Region", t.config.Region)
	r.Header.Set("X-TC-Timestamp", strconv.FormatInt(now.Unix(), 10))
	r.Header.Set("Authorization", tencentScheme+" Credential="+t.config.SecretID+"/"+tencentScope(tencentService, now)+", SignedHeaders="+signed+
		", Signature="+tencentSignature(t.config.Credentials.Secret, tencentService, now, canonical))
	status, body, err := t.gateway.call(r)
	if err != nil {
		return err
	}
	var frame tencentFrame
	var refused tencentError
	if status != http.StatusOK || json.Unmarshal(body, &frame) != nil || json.Unmarshal(frame.Response, &refused) != nil {
		return t.gateway.garbage(status)
	}
	if refused.Error != nil {
		return tencentRefusal(refused.Error.Code)
	}
	if json.Unmarshal(frame.Response, out) != nil {
		return t.gateway.garbage(status)
	}
	return nil
}

// tencentRefusal sorts the codes of "Error Codes" of SMS and of the API gateway. After an internal error nothing is certain, except where
// it names the account; the rest was refused before anything was sent.
func tencentRefusal(code string) error {
	family, detail, _ := strings.Cut(code, ".")
	switch {
	case family == "InternalError" && detail != "SigVerificationFail" && detail != "SigFieldMissing", family == "", code == "FailedOperation":
		return errOutcomeUnknown(TencentName, fmt.Errorf("code %s", printable(code)))
	case family == "LimitExceeded", family == "RequestLimitExceeded":
		return errThrottled(TencentName, code)
	}
	switch detail {
	case "IncorrectPhoneNumber", "PhoneNumberInBlacklist", "PhoneNumberOnBlacklist", "PhoneNumberParseFail",
		"ChineseMainlandTemplateToGlobalPhone", "GlobalTemplateToChineseMainlandPhone":
		return errNumberRefused(TencentName, code)
	case "TemplateIncorrectOrUnapproved", "TemplateIdNotExist", "TemplateParameterFormatError", "TemplateParameterLengthLimit", "ContentLengthLimit",
		"ContainSensitiveWord", "ProhibitedUseUrlInTemplateParameter", "TemplateUnapprovedOrNotExist", "TemplateParamSetNotMatchApprovedTemplate":
		return errTemplateRefused(TencentName, code)
	}
	return errSenderRefused(TencentName, code)
}

// tencentCanonical builds the canonical request of signature v3 and lists the signed headers, which are given in their sorted order and in
// lower case.
func tencentCanonical(method, path, query string, headers [][2]string, payload []byte) (canonical, signed string) {
	var lines strings.Builder
	names := make([]string, len(headers))
	for i, h := range headers {
		names[i] = h[0]
		lines.WriteString(h[0] + ":" + strings.TrimSpace(h[1]) + "\n")
	}
	signed = strings.Join(names, ";")
	return method + "\n" + path + "\n" + query + "\n" + lines.String() + "\n" + signed + "\n" + sha256Hex(payload), signed
}

// tencentScope names the day in UTC and the service for which a signature holds.
func tencentScope(service string, at time.Time) string {
	return at.UTC().Format(time.DateOnly) + "/" + service + "/tc3_request"
}

// tencentSignature signs a canonical request with a SecretKey.
func tencentSignature(secret, service string, at time.Time, canonical string) string {
	toSign := tencentScheme + "\n" + strconv.FormatInt(at.Unix(), 10) + "\n" + tencentScope(service, at) + "\n" + sha256Hex([]byte(canonical))
	key := hmacSHA256([]byte("TC3"+secret), at.UTC().Format(time.DateOnly))
	key = hmacSHA256(hmacSHA256(key, service), "tc3_request")
	return hex.EncodeToString(hmacSHA256(key, toSign))
}
