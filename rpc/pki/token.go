package pki

import (
	"crypto/ecdsa"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"
)

const (
	tokenPrefix = "lambent-join."
	maxToken    = 4 << 10 // characters
	// DefaultTokenTerm is how long a token is good for unless it says otherwise.
	DefaultTokenTerm = 15 * time.Minute
	maxTokenTerm     = 24 * time.Hour
)

// Token lets hosts join a region until it expires. It is a secret: whoever has it gets a certificate of its roles, as often as
// it is shown. A host that shows it knows from it how the region's authority is recognised, so that it shows it to nobody else.
type Token struct {
	Region    string
	Zone      string
	Roles     []Role
	Name      string    // of the host; empty: the authority gives each a new one
	Expires   time.Time // by the authority's clock
	Authority string    // its Hash
}

// signedToken is a Token as text: base64 of JSON, a dot, base64 of what only the authority can compute of it.
func (a *Authority) signedToken(body string) string {
	mac := hmac.New(sha256.New, a.secret)
	mac.Write([]byte(body))
	return body + "." + base64.RawURLEncoding.EncodeToString(mac.Sum(nil))
}

// tokenSecret derives the secret that signs tokens from the authority's key: there is nothing to keep besides it.
func tokenSecret(key *ecdsa.PrivateKey) ([]byte, error) {
	raw, err := key.Bytes()
	if err != nil {
		return nil, err
	}
	return hkdf.Key(sha256.New, raw, nil, "lambent join tokens", sha256.Size)
}

// NewToken makes a join token for hosts of id's zone and roles. With a Name, the hosts that show it become that one: for a host
// that was lost with its key. A term of 0 means DefaultTokenTerm.
func (a *Authority) NewToken(id Identity, term time.Duration) (string, error) {
	if term == 0 {
		term = DefaultTokenTerm
	}
	if term < 0 || term > maxTokenTerm {
		return "", fmt.Errorf("pki: a token for %v: at most %v", term, maxTokenTerm)
	}
	id.Region = a.region
	named := id
	if named.Name == "" {
		named.Name = "any"
	}
	if err := named.Check(); err != nil {
		return "", err
	}
	body, err := json.Marshal(Token{Region: a.region, Zone: id.Zone, Roles: id.Roles, Name: id.Name,
		Expires: time.Now().Add(term).UTC().Truncate(time.Second), Authority: a.Hash()})
	if err != nil {
		return "", err
	}
	return tokenPrefix + a.signedToken(base64.RawURLEncoding.EncodeToString(body)), nil
}

// ParseToken reads a token, as a host does that joins. It cannot tell whether the authority signed it.
func ParseToken(text string) (Token, error) {
	bad := errors.New("pki: this is not a join token")
	body, ok := strings.CutPrefix(strings.TrimSpace(text), tokenPrefix)
	body, _, signed := strings.Cut(body, ".")
	if !ok || !signed || len(text) > maxToken {
		return Token{}, bad
	}
	raw, err := base64.RawURLEncoding.Strict().DecodeString(body)
	if err != nil {
		return Token{}, bad
	}
	var t Token
	if err := json.Unmarshal(raw, &t); err != nil {
		return Token{}, bad
	}
	hash, err := hex.DecodeString(t.Authority)
	if err != nil || len(hash) != sha256.Size || hex.EncodeToString(hash) != t.Authority {
		return Token{}, bad
	}
	id := Identity{Region: t.Region, Zone: t.Zone, Roles: t.Roles, Name: t.Name}
	if id.Name == "" {
		id.Name = "any"
	}
	return t, id.Check()
}

// Admit signs the certificate request of a host that joins, when its token is the authority's and has not expired.
func (a *Authority) Admit(token string, request []byte) ([]byte, error) {
	t, err := ParseToken(token)
	if err != nil {
		return nil, err
	}
	body, _, _ := strings.Cut(strings.TrimPrefix(strings.TrimSpace(token), tokenPrefix), ".")
	if !hmac.Equal([]byte(tokenPrefix+a.signedToken(body)), []byte(strings.TrimSpace(token))) {
		return nil, errors.New("pki: the join token is not of this authority")
	}
	if !time.Now().Before(t.Expires) {
		return nil, errors.New("pki: the join token has expired")
	}
	id := Identity{Region: t.Region, Zone: t.Zone, Roles: t.Roles, Name: t.Name}
	if id.Name == "" {
		id.Name = freshName(t.Roles[0])
	}
	return a.Sign(request, id, DefaultLifetime)
}

// freshName is a name that no host has, so that no token makes anyone an impostor.
func freshName(role Role) string {
	return string(role) + "-" + strings.ToLower(rand.Text())
}
