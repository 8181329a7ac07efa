package user

import (
	"context"
	"net/http"

	"github.com/danielgtaylor/huma/v2"

	"github.com/eprod/eprod/internal/web"
)

// maxBody bounds the bodies of sign-in, which anybody may send.
const maxBody = 4 << 10

type loginInput struct {
	Body struct {
		Username string `json:"username" doc:"in any case"`
		Password string `json:"password"`
		OTP      string `json:"otp,omitempty" doc:"current one-time code of six digits, for accounts that have a second factor"`
	}
}

type activateInput struct {
	Body struct {
		Code string `json:"code" doc:"activation code, in any case and grouping; works once" example:"3F9C8-…"`
		PIN  string `json:"pin,omitempty" doc:"4 to 12 digits; the study says whether it is required"`
	}
}

type participantInput struct {
	Body struct {
		Study  string `json:"study" doc:"id or protocol number"`
		Number string `json:"number"`
		PIN    string `json:"pin"`
	}
}

type refreshInput struct {
	Body struct {
		RefreshToken string `json:"refreshToken"`
	}
}

type logoutInput struct {
	Body *struct {
		RefreshToken string `json:"refreshToken,omitempty" doc:"of the session to end; without it the access token's session ends"`
	}
}

type tokens struct {
	AccessToken  string `json:"accessToken"`
	RefreshToken string `json:"refreshToken" doc:"works once; the answer to it holds the next"`
	ExpiresIn    int    `json:"expiresIn" doc:"seconds until the access token ends"`
	TokenType    string `json:"tokenType"`
}

type tokensOutput struct{ Body tokens }

type participantTokens struct {
	AccessToken  string `json:"accessToken"`
	RefreshToken string `json:"refreshToken" doc:"works once; the answer to it holds the next"`
	ExpiresIn    int    `json:"expiresIn" doc:"seconds until the access token ends"`
	TokenType    string `json:"tokenType"`
	Participant  web.ID `json:"participant"`
	Study        web.ID `json:"study"`
	Number       string `json:"number"`
}

type participantOutput struct{ Body participantTokens }

// Routes adds the routes of sign-in to the server.
func (s *Service) Routes(server *web.Server) {
	api := server.API()
	post := func(id, path, summary string) huma.Operation {
		return huma.Operation{OperationID: id, Method: http.MethodPost, Path: path, Summary: summary, Tags: []string{"auth"},
			Security: web.Public(), MaxBodyBytes: maxBody}
	}
	web.Register(api, post("login", "/api/v1/auth/login", "Sign in as staff"), s.login)
	web.Register(api, post("activate", "/api/v1/auth/activate", "Sign in for the first time, with an activation code"), s.activate)
	web.Register(api, post("participant-sign-in", "/api/v1/auth/participant", "Sign in as a participant"), s.signIn)
	web.Register(api, post("refresh", "/api/v1/auth/refresh", "Exchange a refresh token for new tokens"), s.refreshTokens)
	logout := post("logout", "/api/v1/auth/logout", "Sign out")
	logout.DefaultStatus = http.StatusNoContent
	web.Register(api, logout, s.logout)
}

func (s *Service) login(ctx context.Context, in *loginInput) (*tokensOutput, error) {
	return staffAnswer(s.Login(ctx, in.Body.Username, in.Body.Password, in.Body.OTP, web.RequestID(ctx)))
}

func (s *Service) activate(ctx context.Context, in *activateInput) (*participantOutput, error) {
	return participantAnswer(s.Activate(ctx, in.Body.Code, in.Body.PIN, web.RequestID(ctx)))
}

func (s *Service) signIn(ctx context.Context, in *participantInput) (*participantOutput, error) {
	return participantAnswer(s.SignIn(ctx, in.Body.Study, in.Body.Number, in.Body.PIN, web.RequestID(ctx)))
}

func (s *Service) refreshTokens(ctx context.Context, in *refreshInput) (*tokensOutput, error) {
	return staffAnswer(s.Refresh(ctx, in.Body.RefreshToken, web.RequestID(ctx)))
}

func (s *Service) logout(ctx context.Context, in *logoutInput) (*struct{}, error) {
	token := ""
	if in.Body != nil {
		token = in.Body.RefreshToken
	}
	return nil, s.Logout(ctx, token, web.RequestID(ctx))
}

func staffAnswer(in SignedIn, err error) (*tokensOutput, error) {
	if err != nil {
		return nil, err
	}
	return &tokensOutput{Body: tokensOf(in)}, nil
}

func participantAnswer(in SignedIn, err error) (*participantOutput, error) {
	if err != nil {
		return nil, err
	}
	t := tokensOf(in)
	return &participantOutput{Body: participantTokens{
		AccessToken: t.AccessToken, RefreshToken: t.RefreshToken, ExpiresIn: t.ExpiresIn, TokenType: t.TokenType,
		Participant: web.ID(in.Participant), Study: web.ID(in.Study), Number: in.Number,
	}}, nil
}

// tokensOf names the token type of RFC 6750.
func tokensOf(in SignedIn) tokens {
	return tokens{AccessToken: in.Access, RefreshToken: in.Refresh, ExpiresIn: int(in.ExpiresIn.Seconds()), TokenType: "Bearer"}
}
