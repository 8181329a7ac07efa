package notify

import (
	"crypto/hmac"
	"crypto/subtle"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// refusedEnding marks numbers that the sandbox refuses as no mobile numbers.
const refusedEnding = "00000"

// rpc tells the two Chinese gateways apart, which both take everything at /.
func (s *Sandbox) rpc(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxRequest))
	switch {
	case err != nil:
		http.Error(w, "the request is too large or broken", http.StatusBadRequest)
	case r.Header.Get("x-acs-action") != "":
		s.aliyun(w, r, body)
	case r.Header.Get("X-TC-Action") != "":
		s.tencent(w, r, body)
	default:
		http.Error(w, "neither x-acs-action nor X-TC-Action is set: this is no call of Aliyun or Tencent Cloud", http.StatusBadRequest)
	}
}

func (s *Sandbox) aliyun(w http.ResponseWriter, r *http.Request, body []byte) {
	refuse := func(status int, code string) {
		answer(w, status, map[string]string{"Code": code, "Message": code, "RequestId": "sandbox"})
	}
	if code := s.aliyunUnsigned(r, body); code != "" {
		refuse(http.StatusBadRequest, code)
		return
	}
	order, query := s.behaviour()[AliyunName], r.URL.Query()
	throttle := func() { refuse(http.StatusBadRequest, "Throttling.User") }
	switch r.Header.Get("x-acs-action") {
	case "SendSms":
		m := SandboxMessage{Provider: AliyunName, OutID: query.Get("OutId"), To: fromAliyunNumber(query.Get("PhoneNumbers")),
			Template: query.Get("TemplateCode"), Params: query.Get("TemplateParam"), callback: s.config.Aliyun.Callback}
		code := ""
		switch {
		case !takesNumber(m.To):
			code = "isv.MOBILE_NUMBER_ILLEGAL"
		case m.Template == "" || query.Get("SignName") == "":
			code = "isv.SMS_TEMPLATE_ILLEGAL"
		case m.Params != "" && !json.Valid([]byte(m.Params)):
			code = "isv.INVALID_JSON_PARAM"
		}
		m, done := s.settle(w, r, order, m, verdict{code != "", "%d^0", throttle, func() { refuse(http.StatusOK, code) }})
		if !done {
			answer(w, http.StatusOK, map[string]string{"Code": "OK", "Message": "OK", "RequestId": "sandbox", "BizId": m.Reference})
		}
	case "QuerySendDetails":
		if !s.misbehave(w, r, order, throttle) {
			answer(w, http.StatusOK, s.aliyunDetails(query))
		}
	default:
		refuse(http.StatusNotFound, "InvalidAction.NotFound")
	}
}

// settle takes a message unless it is refused, or the mode forbids it, and reports whether the call is already answered.
func (s *Sandbox) settle(w http.ResponseWriter, r *http.Request, order SandboxCommand, m SandboxMessage, v verdict) (SandboxMessage, bool) {
	if !v.refused && (order.Mode == ModeNormal || order.Accept && order.Mode != ModeThrottle) {
		m = s.take(m, v.format)
	}
	if s.misbehave(w, r, order, v.throttle) {
		return m, true
	}
	if v.refused {
		v.refuse()
	}
	return m, v.refused
}

// verdict says what a gateway does with a message and how it says so.
type verdict struct {
	refused          bool
	format           string // of its references
	throttle, refuse func()
}

func (s *Sandbox) aliyunDetails(query url.Values) any {
	list := []any{}
	for _, m := range s.Inbox() {
		sent := chinaTime(m.ReceivedAt)
		if m.Provider != AliyunName || m.To != fromAliyunNumber(query.Get("PhoneNumber")) || sent.Format("20060102") != query.Get("SendDate") ||
			query.Get("BizId") != "" && query.Get("BizId") != m.Reference || len(list) >= 50 {
			continue
		}
		detail := map[string]any{"PhoneNum": aliyunNumber(m.To), "SendDate": sent.Format(time.DateTime), "TemplateCode": m.Template, "OutId": m.OutID,
			"Content": "", "SendStatus": 1}
		switch m.State {
		case Delivered:
			detail["SendStatus"], detail["ErrCode"], detail["ReceiveDate"] = 3, "DELIVERED", chinaTime(m.due).Format(time.DateTime)
		case Failed:
			detail["SendStatus"], detail["ErrCode"], detail["ReceiveDate"] = 2, "MOBILE_NOT_ON_SERVICE", chinaTime(m.due).Format(time.DateTime)
		}
		list = append(list, detail)
	}
	return map[string]any{"Code": "OK", "Message": "OK", "RequestId": "sandbox", "TotalCount": strconv.Itoa(len(list)),
		"SmsSendDetailDTOs": map[string]any{"SmsSendDetailDTO": list}}
}

// aliyunUnsigned checks the V3 signature and returns the code of what is wrong with it.
func (s *Sandbox) aliyunUnsigned(r *http.Request, body []byte) string {
	given := authorization(r, aliyunScheme)
	signed := strings.Split(given["SignedHeaders"], ";")
	headers := map[string]string{}
	for _, name := range signed {
		headers[name] = r.Header.Get(name)
	}
	headers["host"] = r.Host
	for _, name := range []string{"host", "x-acs-action", "x-acs-content-sha256", "x-acs-date", "x-acs-signature-nonce", "x-acs-version"} {
		if !slices.Contains(signed, name) || headers[name] == "" {
			return "IncompleteSignature"
		}
	}
	date, err := time.Parse(time.RFC3339, headers["x-acs-date"])
	switch {
	case given["Credential"] != s.config.Aliyun.ID:
		return "InvalidAccessKeyId.NotFound"
	case err != nil || s.now().Sub(date).Abs() > 15*time.Minute:
		return "InvalidTimeStamp.Expired"
	case headers["x-acs-version"] != aliyunVersion:
		return "InvalidVersion"
	case headers["x-acs-content-sha256"] != sha256Hex(body),
		!equal(given["Signature"], aliyunSignature(s.config.Aliyun.Secret, aliyunCanonical(r.Method, r.URL.Path, r.URL.Query(), headers, signed))):
		return "SignatureDoesNotMatch"
	case !s.fresh(headers["x-acs-signature-nonce"]):
		return "SignatureNonceUsed"
	}
	return ""
}

// fresh remembers a nonce and reports whether it was new.
func (s *Sandbox) fresh(nonce string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.nonces[nonce] {
		return false
	}
	s.nonces[nonce] = true
	s.recent = append(s.recent, nonce)
	if len(s.recent) > maxNonces {
		delete(s.nonces, s.recent[0])
		s.recent = s.recent[1:]
	}
	return true
}

func (s *Sandbox) tencent(w http.ResponseWriter, r *http.Request, body []byte) {
	reply := func(v any) { answer(w, http.StatusOK, map[string]any{"Response": v}) }
	refuse := func(code string) {
		reply(map[string]any{"Error": map[string]string{"Code": code, "Message": code}, "RequestId": "sandbox"})
	}
	if code := s.tencentUnsigned(r, body); code != "" {
		refuse(code)
		return
	}
	order := s.behaviour()[TencentName]
	throttle := func() { refuse("RequestLimitExceeded") }
	switch r.Header.Get("X-TC-Action") {
	case "SendSms":
		s.tencentSend(w, r, order, body, throttle, refuse, reply)
	case "PullSmsSendStatusByPhoneNumber":
		var pull tencentPull
		if json.Unmarshal(body, &pull) != nil || pull.Limit < 1 || pull.Limit > 100 || pull.Offset != 0 {
			refuse("InvalidParameter")
		} else if !s.misbehave(w, r, order, throttle) {
			reply(map[string]any{"PullSmsSendStatusSet": s.tencentPulled(pull), "RequestId": "sandbox"})
		}
	default:
		refuse("InvalidAction")
	}
}

func (s *Sandbox) tencentSend(w http.ResponseWriter, r *http.Request, order SandboxCommand, body []byte, throttle func(), refuse func(string), reply func(any)) {
	var send tencentSend
	if json.Unmarshal(body, &send) != nil || len(send.PhoneNumberSet) != 1 || send.SmsSdkAppID == "" {
		refuse("InvalidParameter")
		return
	}
	params, _ := json.Marshal(send.TemplateParamSet) // a list of strings cannot fail
	m := SandboxMessage{Provider: TencentName, OutID: send.SessionContext, To: send.PhoneNumberSet[0], Template: send.TemplateID,
		Params: string(params), callback: s.config.Tencent.Callback}
	status := func(code, serial string) {
		reply(map[string]any{"RequestId": "sandbox", "SendStatusSet": []any{map[string]any{"SerialNo": serial, "PhoneNumber": m.To, "Fee": 1,
			"SessionContext": m.OutID, "Code": code, "Message": code, "IsoCode": ""}}})
	}
	code := ""
	switch {
	case !takesNumber(m.To):
		code = "InvalidParameterValue.IncorrectPhoneNumber"
	case m.Template == "":
		code = "FailedOperation.TemplateIncorrectOrUnapproved"
	}
	m, done := s.settle(w, r, order, m, verdict{code != "", "2028:%d", throttle, func() { status(code, "") }})
	if !done {
		status("Ok", m.Reference)
	}
}

func (s *Sandbox) tencentPulled(pull tencentPull) []any {
	list := []any{}
	for _, m := range s.Inbox() {
		received := m.ReceivedAt.Unix()
		if m.Provider != TencentName || m.To != pull.PhoneNumber || received < pull.BeginTime || received > pull.EndTime || !m.State.Final() ||
			len(list) >= pull.Limit {
			continue
		}
		good := m.State == Delivered
		list = append(list, map[string]any{"UserReceiveTime": m.due.Unix(), "PhoneNumber": m.To, "SerialNo": m.Reference,
			"ReportStatus": pick(good, "SUCCESS", "FAIL"), "Description": pick(good, "DELIVRD", "UNDELIV"), "SessionContext": m.OutID})
	}
	return list
}

// tencentUnsigned checks the v3 signature and returns the code of what is wrong with it.
func (s *Sandbox) tencentUnsigned(r *http.Request, body []byte) string {
	given := authorization(r, tencentScheme)
	seconds, err := strconv.ParseInt(r.Header.Get("X-TC-Timestamp"), 10, 64)
	at := time.Unix(seconds, 0)
	id, scope, _ := strings.Cut(given["Credential"], "/")
	names := strings.Split(given["SignedHeaders"], ";")
	headers := make([][2]string, len(names))
	for i, name := range names {
		headers[i] = [2]string{name, r.Header.Get(name)}
		switch name {
		case "host":
			headers[i][1] = r.Host
		case "x-tc-action": // signed in lower case, unlike any other
			headers[i][1] = strings.ToLower(headers[i][1])
		}
	}
	canonical, _ := tencentCanonical(r.Method, r.URL.Path, r.URL.RawQuery, headers, body)
	switch {
	case id != s.config.Tencent.ID:
		return "AuthFailure.SecretIdNotFound"
	case err != nil || s.now().Sub(at).Abs() > 5*time.Minute:
		return "AuthFailure.SignatureExpire"
	case r.Header.Get("X-TC-Version") != tencentVersion:
		return "NoSuchVersion"
	case scope != tencentScope(tencentService, at) || !slices.Contains(names, "content-type") || !slices.Contains(names, "host") ||
		!equal(given["Signature"], tencentSignature(s.config.Tencent.Secret, tencentService, at, canonical)):
		return "AuthFailure.SignatureFailure"
	}
	return ""
}

// authorization takes "SCHEME A=1,B=2" apart, with or without blanks after the commas.
func authorization(r *http.Request, scheme string) map[string]string {
	out := map[string]string{}
	rest, ok := strings.CutPrefix(r.Header.Get("Authorization"), scheme+" ")
	if !ok {
		return out
	}
	for part := range strings.SplitSeq(rest, ",") {
		name, value, _ := strings.Cut(strings.TrimSpace(part), "=")
		out[name] = value
	}
	return out
}

func equal(a, b string) bool { return subtle.ConstantTimeCompare([]byte(a), []byte(b)) == 1 }

func takesNumber(to string) bool {
	return e164.MatchString(to) && !strings.HasSuffix(to, refusedEnding)
}

// fromAliyunNumber undoes aliyunNumber.
func fromAliyunNumber(number string) string {
	if len(number) == 11 && number[0] == '1' {
		return "+86" + number
	}
	return "+" + number
}

// twilioUnauthorized checks account and basic authentication, and answers if they are wrong.
func (s *Sandbox) twilioUnauthorized(w http.ResponseWriter, r *http.Request) bool {
	user, password, _ := r.BasicAuth()
	account := s.config.Twilio
	if hmac.Equal([]byte(user), []byte(account.ID)) && hmac.Equal([]byte(password), []byte(account.Secret)) && r.PathValue("account") == account.ID {
		return false
	}
	twilioRefuse(w, http.StatusUnauthorized, 20003)
	return true
}

func twilioRefuse(w http.ResponseWriter, status, code int) {
	answer(w, status, map[string]any{"code": code, "message": "refused by the sandbox", "more_info": "", "status": status})
}

func (s *Sandbox) twilioSend(w http.ResponseWriter, r *http.Request) {
	r.Body = http.MaxBytesReader(w, r.Body, maxRequest)
	if r.ParseForm() != nil {
		twilioRefuse(w, http.StatusBadRequest, 20001)
		return
	}
	if s.twilioUnauthorized(w, r) {
		return
	}
	form := r.PostForm
	m := SandboxMessage{Provider: TwilioName, To: form.Get("To"), Template: form.Get("ContentSid"), Params: form.Get("ContentVariables"),
		Text: form.Get("Body"), callback: form.Get("StatusCallback")}
	if u, err := url.Parse(m.callback); err == nil {
		m.OutID = u.Query().Get("id")
	}
	code := 0
	switch {
	case !takesNumber(m.To):
		code = 21211
	case form.Get("From") == "" && form.Get("MessagingServiceSid") == "":
		code = 21603
	case m.Text == "" && m.Template == "":
		code = 21602
	}
	throttle := func() { twilioRefuse(w, http.StatusTooManyRequests, 20429) }
	refuse := func() { twilioRefuse(w, http.StatusBadRequest, code) }
	m, done := s.settle(w, r, s.behaviour()[TwilioName], m, verdict{code != 0, "SM%032x", throttle, refuse})
	if !done {
		answer(w, http.StatusCreated, s.twilioResource(m))
	}
}

func (s *Sandbox) twilioFetch(w http.ResponseWriter, r *http.Request) {
	if s.twilioUnauthorized(w, r) || s.misbehave(w, r, s.behaviour()[TwilioName], func() { twilioRefuse(w, http.StatusTooManyRequests, 20429) }) {
		return
	}
	sid := strings.TrimSuffix(r.PathValue("file"), ".json")
	for _, m := range s.Inbox() {
		if m.Provider == TwilioName && m.Reference == sid {
			answer(w, http.StatusOK, s.twilioResource(m))
			return
		}
	}
	twilioRefuse(w, http.StatusNotFound, 20404)
}

func (s *Sandbox) twilioList(w http.ResponseWriter, r *http.Request) {
	if s.twilioUnauthorized(w, r) || s.misbehave(w, r, s.behaviour()[TwilioName], func() { twilioRefuse(w, http.StatusTooManyRequests, 20429) }) {
		return
	}
	list := []any{}
	for _, m := range s.Inbox() {
		if m.Provider == TwilioName && m.To == r.URL.Query().Get("To") && len(list) < 50 {
			list = append(list, s.twilioResource(m))
		}
	}
	answer(w, http.StatusOK, map[string]any{"messages": list, "page": 0, "page_size": 50})
}

func (s *Sandbox) twilioResource(m SandboxMessage) any {
	status, failure, updated := "queued", any(nil), m.ReceivedAt
	switch m.State {
	case Delivered:
		status, updated = "delivered", m.due
	case Failed:
		status, failure, updated = "undelivered", 30003, m.due
	}
	return map[string]any{"sid": m.Reference, "account_sid": s.config.Twilio.ID, "to": m.To, "body": m.Text, "status": status, "error_code": failure,
		"direction": "outbound-api", "date_created": m.ReceivedAt.UTC().Format(time.RFC1123Z), "date_updated": updated.UTC().Format(time.RFC1123Z)}
}
