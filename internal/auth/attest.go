package auth

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"strings"

	"github.com/danielgtaylor/huma/v2"

	"github.com/eprod/eprod/internal/web"
)

// attestation is the protected header of a signed document.
type attestation struct {
	Alg string `json:"alg"`
	Typ string `json:"typ"`
	Kid string `json:"kid"`
}

// Attest signs a document of some kind and returns a JWS in compact form (RFC 7515) with EdDSA (RFC 8037). Its payload is the document,
// byte for byte; kind is the header's typ, so that one kind never passes for another, nor for a token.
func (s *Signer) Attest(kind string, document []byte) (string, error) {
	header, err := json.Marshal(attestation{"EdDSA", kind, s.keyID()})
	if err != nil {
		return "", err
	}
	enc := base64.RawURLEncoding
	text := enc.EncodeToString(header) + "." + enc.EncodeToString(document)
	return text + "." + enc.EncodeToString(ed25519.Sign(s.private, []byte(text))), nil
}

// Attested returns the document of a JWS that Attest made for this kind; false for anything else.
func (s *Signer) Attested(kind, signed string) ([]byte, bool) {
	parts := strings.Split(signed, ".")
	if len(parts) != 3 {
		return nil, false
	}
	enc := base64.RawURLEncoding.Strict()
	header, err1 := enc.DecodeString(parts[0])
	document, err2 := enc.DecodeString(parts[1])
	signature, err3 := enc.DecodeString(parts[2])
	var h attestation
	if err1 != nil || err2 != nil || err3 != nil || json.Unmarshal(header, &h) != nil || h.Alg != "EdDSA" || h.Typ != kind {
		return nil, false
	}
	return document, ed25519.Verify(s.public, []byte(parts[0]+"."+parts[1]), signature)
}

// keyID names the public key: the thumbprint of RFC 7638.
func (s *Signer) keyID() string {
	sum := sha256.Sum256([]byte(`{"crv":"Ed25519","kty":"OKP","x":"` + base64.RawURLEncoding.EncodeToString(s.public) + `"}`))
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

type publicKey struct {
	Kty string `json:"kty" doc:"OKP"`
	Crv string `json:"crv" doc:"Ed25519"`
	X   string `json:"x"`
	Kid string `json:"kid"`
	Alg string `json:"alg" doc:"EdDSA"`
	Use string `json:"use" doc:"sig"`
}

type keySet struct {
	Body struct {
		Keys []publicKey `json:"keys"`
	}
}

// Routes publishes the key with which documents and tokens are signed, as a JWK set (RFC 7517), for whoever wants to check them.
func (s *Signer) Routes(api huma.API) {
	web.Register(api, huma.Operation{OperationID: "keys", Method: http.MethodGet, Path: "/.well-known/jwks.json", Tags: []string{"sign-in"},
		Summary: "The public key of signed documents", DefaultStatus: http.StatusOK, Security: web.Public()},
		func(context.Context, *struct{}) (*keySet, error) {
			var out keySet
			out.Body.Keys = []publicKey{{"OKP", "Ed25519", base64.RawURLEncoding.EncodeToString(s.public), s.keyID(), "EdDSA", "sig"}}
			return &out, nil
		})
}
