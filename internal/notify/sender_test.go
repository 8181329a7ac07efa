package notify

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/eprod/eprod/internal/errs"
)

// answering returns the senders on a gateway that answers everything alike.
func answering(t testing.TB, status int, body string) map[string]Reporter {
	client := &http.Client{Transport: roundTrip(func(r *http.Request) (*http.Response, error) {
		return &http.Response{StatusCode: status, Body: io.NopCloser(strings.NewReader(body)), Request: r}, nil
	})}
	return onClient(t, client)
}

func onClient(t testing.TB, client *http.Client) map[string]Reporter {
	set, err := NewTemplates(DefaultTemplates())
	if err != nil {
		t.Fatal(err)
	}
	parts := Parts{Client: client, Now: time.Now, Random: bytes.NewReader(make([]byte, 1<<16)), Templates: set}
	return map[string]Reporter{AliyunName: NewAliyun(goodAliyun(), parts), TencentName: NewTencent(goodTencent(), parts), TwilioName: NewTwilio(goodTwilio(), parts)}
}

func TestAnswersAreSorted(t *testing.T) {
	aliyun := func(code string) string { return `{"Code":"` + code + `","Message":"x +8613800138000"}` }
	tencent := func(code string) string {
		return `{"Response":{"SendStatusSet":[{"SerialNo":"","Code":"` + code + `","Message":"x"}],"RequestId":"x"}}`
	}
	whole := func(code string) string { return `{"Response":{"Error":{"Code":"` + code + `","Message":"x"}}}` }
	twilio := func(code int) string {
		return `{"code":` + strconv.Itoa(code) + `,"message":"The 'To' number +8613800138000 is wrong","status":400}`
	}
	for _, c := range []struct {
		sender string
		status int
		body   string
		want   string // code of the error
	}{
		{AliyunName, 200, aliyun("isv.BUSINESS_LIMIT_CONTROL"), "sms_throttled"},
		{AliyunName, 200, aliyun("isv.DAY_LIMIT_CONTROL"), "sms_throttled"},
		{AliyunName, 400, aliyun("Throttling.User"), "sms_throttled"},
		{AliyunName, 200, aliyun("isv.MOBILE_NUMBER_ILLEGAL"), "sms_number_refused"},
		{AliyunName, 200, aliyun("isv.SMS_TEMPLATE_ILLEGAL"), "sms_template_refused"},
		{AliyunName, 200, aliyun("isv.OUT_OF_SERVICE"), "sms_sender_refused"},
		{AliyunName, 200, aliyun("isp.RAM_PERMISSION_DENY"), "sms_sender_refused"},
		{AliyunName, 404, aliyun("InvalidAccessKeyId.NotFound"), "sms_sender_refused"},
		{AliyunName, 200, aliyun("isp.SYSTEM_ERROR"), "sms_outcome_unknown"},
		{AliyunName, 400, aliyun("OK"), "sms_outcome_unknown"},
		{AliyunName, 200, aliyun("OK"), "sms_outcome_unknown"}, // without a BizId
		{AliyunName, 503, aliyun("ServiceUnavailable"), "sms_outcome_unknown"},
		{TencentName, 200, tencent("LimitExceeded.PhoneNumberDailyLimit"), "sms_throttled"},
		{TencentName, 200, whole("RequestLimitExceeded"), "sms_throttled"},
		{TencentName, 200, tencent("InvalidParameterValue.IncorrectPhoneNumber"), "sms_number_refused"},
		{TencentName, 200, tencent("FailedOperation.TemplateIncorrectOrUnapproved"), "sms_template_refused"},
		{TencentName, 200, tencent("FailedOperation.InsufficientBalanceInSmsPackage"), "sms_sender_refused"},
		{TencentName, 200, whole("AuthFailure.SignatureFailure"), "sms_sender_refused"},
		{TencentName, 200, tencent("InternalError.Timeout"), "sms_outcome_unknown"},
		{TencentName, 200, whole("InternalError"), "sms_outcome_unknown"},
		{TencentName, 200, tencent("Ok"), "sms_outcome_unknown"}, // without a SerialNo
		{TencentName, 200, `{"Response":{"SendStatusSet":[]}}`, "sms_outcome_unknown"},
		{TwilioName, 400, twilio(21211), "sms_number_refused"},
		{TwilioName, 400, twilio(21610), "sms_number_refused"},
		{TwilioName, 400, twilio(21617), "sms_template_refused"},
		{TwilioName, 401, twilio(20003), "sms_sender_refused"},
		{TwilioName, 404, twilio(20404), "sms_sender_refused"},
		{TwilioName, 429, twilio(20429), "sms_throttled"},
		{TwilioName, 400, twilio(21611), "sms_throttled"},
		{TwilioName, 400, `{"error":"not Twilio"}`, "sms_outcome_unknown"},
		{TwilioName, 201, `{"sid":"../x"}`, "sms_outcome_unknown"},
		{TwilioName, 500, twilio(20500), "sms_outcome_unknown"},
		{AliyunName, 200, strings.Repeat(" ", maxAnswer) + aliyun("OK"), "sms_outcome_unknown"},
	} {
		_, err := answering(t, c.status, c.body)[c.sender].Send(context.Background(), due(1))
		e, _ := errs.As(err)
		if e == nil || e.Code != c.want || Unsent(err) != (c.want != "sms_outcome_unknown") {
			t.Errorf("%s %d %.120s: got %v, want %s", c.sender, c.status, c.body, err, c.want)
		}
		if err != nil && strings.Contains(err.Error(), "13800138000") {
			t.Errorf("the error shows the number: %v", err)
		}
	}
}

// A redirect that keeps method and body would send twice.
func TestRedirectsAreNotFollowed(t *testing.T) {
	calls := 0
	client := &http.Client{Transport: roundTrip(func(r *http.Request) (*http.Response, error) {
		calls++
		return &http.Response{StatusCode: 307, Header: http.Header{"Location": {"https://elsewhere.example/"}}, Body: http.NoBody, Request: r}, nil
	})}
	for name, s := range onClient(t, client) {
		calls = 0
		if _, err := s.Send(context.Background(), due(1)); Unsent(err) || errs.KindOf(err) != errs.Unavailable || calls != 1 {
			t.Errorf("%s: got %v after %d calls", name, err, calls)
		}
	}
}

// The gateway reads the request and breaks the connection: it may have sent the message.
func TestBrokenConnectionIsUnknown(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }))
	defer server.Close()
	address := strings.TrimPrefix(server.URL, "http://")
	calls := 0
	transport := &http.Transport{DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
		calls++
		return new(net.Dialer).DialContext(ctx, network, address)
	}}
	transport.DialTLSContext = transport.DialContext // https addresses, spoken in the clear
	defer transport.CloseIdleConnections()
	for name, s := range onClient(t, &http.Client{Transport: transport}) {
		calls = 0
		if _, err := s.Send(bounded(t), due(1)); Unsent(err) || errs.KindOf(err) != errs.Unavailable || calls != 1 {
			t.Errorf("%s: got %v after %d calls", name, err, calls)
		}
	}
}

func TestCallerThatLeavesBeforeTheConnectionSentNothing(t *testing.T) {
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	}}
	transport.DialTLSContext = transport.DialContext
	for name, s := range onClient(t, &http.Client{Transport: transport}) {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
		_, err := s.Send(ctx, due(1))
		cancel()
		if !Unsent(err) || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

func TestMissingVendorCodeIsUnsent(t *testing.T) {
	for name, s := range answering(t, 200, "") {
		m := Message{ID: 1, Channel: SMS, To: "+441632960000", Template: "invitation", Params: map[string]string{"link": "https://epro.example.org/a"}}
		_, err := s.Send(context.Background(), m)
		if name != TwilioName && (!Unsent(err) || Undeliverable(err)) {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

func TestFormsAsTheVendorsWantThem(t *testing.T) {
	var got *http.Request
	var body []byte
	client := &http.Client{Transport: roundTrip(func(r *http.Request) (*http.Response, error) {
		got, body = r, nil
		if r.Body != nil {
			body, _ = io.ReadAll(r.Body)
		}
		return nil, errors.New("enough")
	})}
	twilio := goodTwilio()
	twilio.From, twilio.Templates = "MG1", []Code{{"task_due", "zh", "HX1"}}
	senders := onClient(t, client)
	parts := senders[TwilioName].(*Twilio).Parts
	senders[TwilioName] = NewTwilio(twilio, parts)
	for name, s := range senders {
		_, _ = s.Send(context.Background(), due(7)) // the transport refuses
		text := string(body) + "?" + got.URL.RawQuery
		for _, want := range map[string][]string{
			AliyunName:  {"PhoneNumbers=13800138000", "OutId=7", "TemplateCode=SMS_1", "TemplateParam=%7B%22until%22%3A%22%E4%BB%8A%E6%99%9A%2020%3A00"},
			TencentName: {`"PhoneNumberSet":["+8613800138000"]`, `"SessionContext":"7"`, `"TemplateId":"1110"`, `"SmsSdkAppId":"1400006666"`},
			TwilioName:  {"MessagingServiceSid=MG1", "ContentSid=HX1", "ContentVariables=%7B%221%22%3A", "%3Fid%3D7"},
		}[name] {
			if !strings.Contains(text, want) {
				t.Errorf("%s: %s is missing in %s", name, want, text)
			}
		}
	}
}

func TestAliyunNumbers(t *testing.T) {
	for e164, want := range map[string]string{"+8613800138000": "13800138000", "+85251234567": "85251234567", "+8610123": "8610123", "+12015550123": "12015550123"} {
		got := aliyunNumber(e164)
		if got != want || fromAliyunNumber(got) != e164 && e164 != "+12015550123" { // the sandbox takes eleven digits beginning with 1 for Chinese
			t.Errorf("%s: got %s and back %s", e164, got, fromAliyunNumber(got))
		}
	}
}

// A message sent at 23:59:59 in China, which another clock files under the next day.
func TestAliyunQueryAroundMidnight(t *testing.T) {
	var days []string
	client := &http.Client{Transport: roundTrip(func(r *http.Request) (*http.Response, error) {
		days = append(days, r.URL.Query().Get("SendDate"))
		body := `{"Code":"OK","SmsSendDetailDTOs":{"SmsSendDetailDTO":[]}}`
		if len(days) == 2 {
			body = `{"Code":"OK","SmsSendDetailDTOs":{"SmsSendDetailDTO":[{"OutId":"1","SendStatus":3,"ErrCode":"DELIVERED","ReceiveDate":"2026-03-02 00:00:03"}]}}`
		}
		return &http.Response{StatusCode: 200, Body: io.NopCloser(strings.NewReader(body))}, nil
	})}
	got, err := onClient(t, client)[AliyunName].Query(context.Background(), due(1), "", time.Date(2026, 3, 1, 15, 59, 59, 0, time.UTC))
	if err != nil || got.State != Delivered || strings.Join(days, " ") != "20260301 20260302" || !got.At.Equal(time.Date(2026, 3, 1, 16, 0, 3, 0, time.UTC)) {
		t.Errorf("got %+v, %v after %v", got, err, days)
	}
}

func callbackRequest(t testing.TB, query string) *http.Request {
	r, err := http.NewRequest(http.MethodPost, "http://inside:8080/sms?"+query, nil)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// The bodies are those of the vendors' pages "SmsReport" and "SMS Sending Status Notification".
func TestReceiptsAsPublished(t *testing.T) {
	senders := answering(t, 200, "")
	query := "token=" + goodAliyun().Credentials.CallbackToken
	got, err := senders[AliyunName].Receipts(callbackRequest(t, query), []byte(`[{"phone_number":"1381111****","send_time":"2017-01-01 00:00:00",
		"report_time":"2017-01-01 00:00:00","success":true,"err_code":"DELIVERED","err_msg":"x","sms_size":"1","biz_id":"12345","out_id":"67890"}]`))
	want := Receipt{ID: 67890, Provider: AliyunName, Reference: "12345", Code: "DELIVERED", State: Delivered, At: time.Date(2016, 12, 31, 16, 0, 0, 0, time.UTC)}
	if err != nil || len(got) != 1 || !got[0].At.Equal(want.At) {
		t.Fatalf("got %+v, %v", got, err)
	}
	if got[0].At = want.At; got[0] != want {
		t.Errorf("got %+v", got[0])
	}
	got, err = senders[TencentName].Receipts(callbackRequest(t, query), []byte(`[{"user_receive_time":"2015-10-17 08:03:04","nationcode":"86",
		"mobile":"13xxxxxxxxx","report_status":"SUCCESS","errmsg":"DELIVRD","description":"x","sid":"xxxxxxx"}]`))
	want = Receipt{Provider: TencentName, Reference: "xxxxxxx", Code: "DELIVRD", State: Delivered, At: time.Date(2015, 10, 17, 0, 3, 4, 0, time.UTC)}
	if err != nil || len(got) != 1 || !got[0].At.Equal(want.At) {
		t.Fatalf("got %+v, %v", got, err)
	}
	if got[0].At = want.At; got[0] != want {
		t.Errorf("got %+v", got[0])
	}
}

func TestForgedReceiptsAreRefused(t *testing.T) {
	eachSender(t, func(t *testing.T, r *rig, s Reporter) {
		if _, err := s.Send(bounded(t), due(1)); err != nil {
			t.Fatal(err)
		}
		genuine := r.next()
		forge := func(change func(request *http.Request, body *[]byte)) error {
			request, body := genuine.request.Clone(context.Background()), bytes.Clone(genuine.body)
			change(request, &body)
			_, err := s.Receipts(request, body)
			return err
		}
		if err := forge(func(*http.Request, *[]byte) {}); err != nil {
			t.Fatalf("the genuine one: %v", err)
		}
		changes := map[string]func(*http.Request, *[]byte){
			"OtherSecret": func(q *http.Request, _ *[]byte) {
				q.Header.Set("X-Twilio-Signature", twilioSignature("guess", "x", nil))
				q.URL.RawQuery = "token=" + strings.Repeat("x", len(testToken))
			},
			"NoSecret": func(q *http.Request, _ *[]byte) { q.Header.Del("X-Twilio-Signature"); q.URL.RawQuery = "" },
		}
		if s.Name() == TwilioName { // only Twilio signs what it says
			changes["OtherID"] = func(q *http.Request, _ *[]byte) { q.URL.RawQuery = "id=2" }
			changes["OtherState"] = func(_ *http.Request, body *[]byte) {
				*body = bytes.Replace(*body, []byte("MessageStatus=sent"), []byte("MessageStatus=delivered"), 1)
			}
			changes["MoreFields"] = func(_ *http.Request, body *[]byte) { *body = append(*body, "&ErrorCode=1"...) }
		}
		for name, change := range changes {
			if err := forge(change); errs.KindOf(err) != errs.Unauthenticated {
				t.Errorf("%s: got %v", name, err)
			}
		}
	})
}

func TestUnreadableReceiptsAreRefused(t *testing.T) {
	senders := answering(t, 200, "")
	query := "token=" + goodAliyun().Credentials.CallbackToken
	many := "[" + strings.Repeat("{},", maxReceipts) + "{}]"
	for _, name := range []string{AliyunName, TencentName} {
		for _, body := range []string{"", "{}", "x", "[null]", `[{"biz_id":1,"sid":1}]`, `[{"biz_id":"` + strings.Repeat("1", 129) + `","sid":"` + strings.Repeat("1", 129) + `"}]`, many, strings.Repeat(" ", maxCallback) + "[]"} {
			if _, err := senders[name].Receipts(callbackRequest(t, query), []byte(body)); errs.KindOf(err) != errs.Invalid {
				t.Errorf("%s %.40s: got %v", name, body, err)
			}
		}
	}
	for _, form := range []string{"MessageSid=SM" + strings.Repeat("0", 32), "MessageStatus=sent", "MessageStatus=sent&MessageSid=x", strings.Repeat("x", maxCallback+1), "a=%zz"} {
		r, body := signed(t, form, "id=1")
		if _, err := senders[TwilioName].Receipts(r, body); errs.KindOf(err) != errs.Invalid {
			t.Errorf("twilio %.40s: got %v", form, err)
		}
	}
}

// signed returns a callback as Twilio would sign it.
func signed(t testing.TB, form, query string) (*http.Request, []byte) {
	r := callbackRequest(t, query)
	c := goodTwilio()
	form += "&AccountSid=" + c.AccountSID
	values, _ := url.ParseQuery(form)
	r.Header.Set("X-Twilio-Signature", twilioSignature(c.Credentials.Secret, c.Callback+"?"+query, values))
	return r, []byte(form)
}

func FuzzReceipts(f *testing.F) {
	f.Add([]byte(`[{"report_time":"2017-01-01 00:00:00","success":true,"err_code":"DELIVERED","biz_id":"1","out_id":"2"}]`))
	f.Add([]byte(`[{"user_receive_time":"2015-10-17 08:03:04","report_status":"FAIL","errmsg":"UNDELIV","sid":"1"}]`))
	f.Add([]byte("MessageSid=SM00000000000000000000000000000000&MessageStatus=undelivered&ErrorCode=30003"))
	f.Add([]byte("[null]"))
	senders := answering(f, 200, "")
	query := "id=9&token=" + goodAliyun().Credentials.CallbackToken
	f.Fuzz(func(t *testing.T, body []byte) {
		for name, s := range senders {
			r, text := callbackRequest(t, query), body
			if name == TwilioName {
				r, text = signed(t, string(body), query)
			}
			receipts, err := s.Receipts(r, text)
			if err != nil && (receipts != nil || errs.KindOf(err) != errs.Invalid && errs.KindOf(err) != errs.Unauthenticated) {
				t.Fatalf("%s: %v, %v", name, receipts, err)
			}
			for _, got := range receipts {
				switch got.State {
				case Accepted, Delivered, Failed, Unknown:
				default:
					t.Fatalf("%s: state %q", name, got.State)
				}
				if got.Provider != name || got.At.IsZero() || got.Code != printable(got.Code) || len(receipts) > maxReceipts {
					t.Fatalf("%s: %+v", name, got)
				}
			}
		}
	})
}

func FuzzAnswers(f *testing.F) {
	f.Add(200, `{"Code":"OK","BizId":"1"}`)
	f.Add(200, `{"Response":{"SendStatusSet":[{"SerialNo":"1","Code":"Ok"}]}}`)
	f.Add(201, `{"sid":"SM00000000000000000000000000000000","status":"queued"}`)
	f.Add(200, `{"Response":null}`)
	f.Add(400, `{"code":21211,"status":400}`)
	f.Fuzz(func(t *testing.T, status int, body string) {
		for name, s := range answering(t, status, body) {
			reference, err := s.Send(context.Background(), due(1))
			if (reference == "") != (err != nil) {
				t.Fatalf("%s: %q, %v", name, reference, err)
			}
			if _, known := errs.As(err); err != nil && !known {
				t.Fatalf("%s: an error without a kind: %v", name, err)
			}
			if status >= 500 && Unsent(err) {
				t.Fatalf("%s: after a status of %d nothing is certain: %v", name, status, err)
			}
			for _, reference := range []string{"", "1"} {
				if got, err := s.Query(context.Background(), due(1), reference, time.Now()); err == nil && (got.State == "" || got.ID != 1) {
					t.Fatalf("%s: %+v", name, got)
				}
			}
		}
	})
}
