// Package sigv4 verifies AWS Signature Version 4 on requests as they arrived: what was signed is verified, and nothing is
// signed anew (https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv.html).
package sigv4

import (
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"fmt"
	"hash"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

const (
	algorithm  = "AWS4-HMAC-SHA256"
	timeFormat = "20060102T150405Z"
	// maxSkew is how far a header-signed request's time may be from now.
	maxSkew = 5 * time.Minute
	// maxExpiry is the longest life of a presigned URL.
	maxExpiry = 7 * 24 * time.Hour
)

// Error is a refusal, by AWS's name for it.
type Error struct {
	Type    string
	Message string
}

// Error returns the message.
func (e *Error) Error() string { return e.Type + ": " + e.Message }

func refuse(kind, format string, args ...any) *Error {
	return &Error{kind, fmt.Sprintf(format, args...)}
}

// Names of the refusals.
const (
	MissingToken = "MissingAuthenticationTokenException"
	Unrecognized = "UnrecognizedClientException"
	Incomplete   = "IncompleteSignatureException"
	Invalid      = "InvalidSignatureException"
)

// Verifier checks requests. Its methods may be called by many goroutines.
type Verifier struct {
	Region string
	// Secret returns the secret of an access key ID.
	Secret func(accessKeyID string) (secret string, ok bool)
	Now    func() time.Time // default: time.Now

	keys sync.Map // credential with its scope to *signingKey
}

// signingKey is what one access key signs with on one day. Deriving it costs four HMACs, so the last ones are kept.
type signingKey struct {
	secret string
	macs   sync.Pool // of hash.Hash
}

// claim is what a request says of its signature.
type claim struct {
	key, date, region, service string
	credential                 string // all of them, as sent
	headers                    []string
	signature                  string
	time                       string
	presigned                  bool
}

// Identity is who signed a request.
type Identity struct {
	AccessKeyID string
	Service     string
	BodySHA256  string // lower-case hex digest that the body has to have
}

// Verify checks a request's signature and time; a refusal is an *Error. When the body's digest is signed as a header, the
// body is not asked for: the caller then compares it with Identity.BodySHA256. Else bodySum is called for its lower-case hex
// digest, after all that can be checked without the body, so that only a caller who knows an access key ID gets a body read.
// An error of bodySum is returned as it is.
func (v *Verifier) Verify(r *http.Request, bodySum func() (string, error)) (Identity, error) {
	c, query, err := parse(r)
	if err != nil {
		return Identity{}, err
	}
	secret, ok := v.Secret(c.key)
	if !ok {
		return Identity{}, refuse(Unrecognized, "The security token included in the request is invalid.")
	}
	if c.region != v.Region {
		return Identity{}, refuse(Invalid, "Credential should be scoped to a valid region. ")
	}
	if err := v.checkTime(r, c); err != nil {
		return Identity{}, err
	}
	if err := checkHeaders(r, c); err != nil {
		return Identity{}, err
	}
	payload, err := payloadHash(r, c, bodySum)
	if err != nil {
		return Identity{}, err
	}
	if !v.matches(c, secret, canonicalRequest(r, c, query, payload)) {
		return Identity{}, refuse(Invalid, "The request signature we calculated does not match the signature you provided. Check your AWS Secret Access Key and signing method. Consult the service documentation for details.")
	}
	return Identity{AccessKeyID: c.key, Service: c.service, BodySHA256: payload}, nil
}

// parse reads the signature from the Authorization header or, for a presigned request, from the query. The query is returned
// without its signature.
func parse(r *http.Request) (claim, []string, error) {
	query := strings.FieldsFunc(r.URL.RawQuery, func(c rune) bool { return c == '&' })
	if header := r.Header.Get("Authorization"); header != "" {
		if len(r.Header.Values("Authorization")) > 1 {
			return claim{}, nil, refuse(Incomplete, "The request has more than one Authorization header.")
		}
		c, err := parseHeader(header)
		if c.time = r.Header.Get("X-Amz-Date"); c.time == "" && err == nil {
			err = refuse(Incomplete, "Authorization header requires existence of either a 'X-Amz-Date' or a 'Date' header. Authorization=%s", header)
		}
		return c, query, err
	}
	if r.URL.Query().Get("X-Amz-Algorithm") == "" {
		return claim{}, nil, refuse(MissingToken, "Missing Authentication Token")
	}
	return parseQuery(r, query)
}

func parseHeader(header string) (claim, error) {
	var c claim
	rest, ok := strings.CutPrefix(header, algorithm)
	if !ok || rest == "" || rest[0] != ' ' {
		return c, refuse(Incomplete, "Authorization header requires 'Credential' parameter. Authorization header requires 'Signature' parameter. Authorization header requires 'SignedHeaders' parameter.")
	}
	var credential, signed string
	for part := range strings.SplitSeq(rest, ",") {
		name, value, _ := strings.Cut(strings.TrimSpace(part), "=")
		var into *string
		switch name {
		case "Credential":
			into = &credential
		case "SignedHeaders":
			into = &signed
		case "Signature":
			into = &c.signature
		}
		if into == nil || *into != "" {
			return c, refuse(Incomplete, "'%s' not a valid key=value pair (missing equal-sign) in Authorization header.", clip(part))
		}
		*into = value
	}
	var missing []string
	for _, need := range [...][2]string{{"Credential", credential}, {"Signature", c.signature}, {"SignedHeaders", signed}} {
		if need[1] == "" {
			missing = append(missing, "Authorization header requires '"+need[0]+"' parameter.")
		}
	}
	if len(missing) > 0 {
		return c, refuse(Incomplete, "%s", strings.Join(missing, " "))
	}
	c.headers = strings.Split(signed, ";")
	return c, c.scope(credential)
}

func parseQuery(r *http.Request, query []string) (claim, []string, error) {
	values := r.URL.Query()
	c := claim{presigned: true, signature: values.Get("X-Amz-Signature"), time: values.Get("X-Amz-Date"), headers: strings.Split(values.Get("X-Amz-SignedHeaders"), ";")}
	if values.Get("X-Amz-Algorithm") != algorithm || c.signature == "" || c.time == "" || values.Get("X-Amz-SignedHeaders") == "" {
		return c, nil, refuse(Incomplete, "AWS query-string parameters must include 'X-Amz-Algorithm', 'X-Amz-Credential', 'X-Amz-Signature', 'X-Amz-SignedHeaders' and 'X-Amz-Date'.")
	}
	for _, name := range []string{"X-Amz-Algorithm", "X-Amz-Credential", "X-Amz-Signature", "X-Amz-SignedHeaders", "X-Amz-Date", "X-Amz-Expires"} {
		if len(values[name]) > 1 {
			return c, nil, refuse(Incomplete, "The query has more than one %s.", name)
		}
	}
	query = slices.DeleteFunc(query, func(p string) bool { return strings.HasPrefix(p, "X-Amz-Signature=") })
	return c, query, c.scope(values.Get("X-Amz-Credential"))
}

// scope splits KEY/DATE/REGION/SERVICE/aws4_request.
func (c *claim) scope(credential string) error {
	var parts [5]string
	n := 0
	for part := range strings.SplitSeq(credential, "/") {
		if n < len(parts) {
			parts[n] = part
		}
		n++
	}
	if n != len(parts) || parts[4] != "aws4_request" || parts[0] == "" {
		return refuse(Incomplete, "Credential must have exactly 5 slash-delimited elements, e.g. keyid/date/region/service/term, got '%s'", clip(credential))
	}
	c.key, c.date, c.region, c.service, c.credential = parts[0], parts[1], parts[2], parts[3], credential
	return nil
}

func (v *Verifier) checkTime(r *http.Request, c claim) error {
	signed, err := time.Parse(timeFormat, c.time)
	if err != nil {
		return refuse(Incomplete, "Date must be in ISO-8601 'basic format'. Got '%s'. See http://en.wikipedia.org/wiki/ISO_8601", clip(c.time))
	}
	if c.date != c.time[:8] {
		return refuse(Invalid, "Date in Credential scope does not match YYYYMMDD from ISO-8601 version of date from HTTP: '%s' != '%s', from '%s'.", clip(c.date), c.time[:8], c.time)
	}
	now := time.Now()
	if v.Now != nil {
		now = v.Now()
	}
	life := maxSkew
	if c.presigned {
		seconds, err := strconv.Atoi(r.URL.Query().Get("X-Amz-Expires"))
		if err != nil || seconds < 1 || seconds > int(maxExpiry/time.Second) {
			return refuse(Incomplete, "X-Amz-Expires must be a number of seconds between 1 and 604800.")
		}
		life = time.Duration(seconds) * time.Second
	}
	if signed.Add(life).Before(now) {
		return refuse(Invalid, "Signature expired: %s is now earlier than %s (%s - %d min.)", c.time, now.Add(-life).UTC().Format(timeFormat), now.UTC().Format(timeFormat), int(life.Minutes()))
	}
	if signed.After(now.Add(maxSkew)) {
		return refuse(Invalid, "Signature not yet current: %s is still later than %s (%s + %d min.)", c.time, now.Add(maxSkew).UTC().Format(timeFormat), now.UTC().Format(timeFormat), int(maxSkew.Minutes()))
	}
	return nil
}

// payloadHash is the body's digest as it was signed. Only S3 takes bodies that are not signed.
func payloadHash(r *http.Request, c claim, bodySum func() (string, error)) (string, error) {
	given := r.Header["X-Amz-Content-Sha256"]
	if len(given) == 0 {
		return bodySum()
	}
	if sum, err := hex.DecodeString(given[0]); len(given) > 1 || err != nil || len(sum) != sha256.Size || given[0] != strings.ToLower(given[0]) {
		return "", refuse(Invalid, "x-amz-content-sha256 must be the lower-case hex SHA-256 of the body.")
	}
	return given[0], nil
}

func (v *Verifier) matches(c claim, secret string, canonical []byte) bool {
	var want [sha256.Size]byte
	if len(c.signature) != hex.EncodedLen(len(want)) {
		return false
	}
	if _, err := hex.Decode(want[:], []byte(c.signature)); err != nil {
		return false
	}
	digest := sha256.Sum256(canonical)
	toSign := make([]byte, 0, 256)
	toSign = append(toSign, algorithm+"\n"...)
	toSign = append(toSign, c.time...)
	toSign = append(toSign, '\n')
	toSign = append(toSign, c.credential[len(c.key)+1:]...)
	toSign = append(toSign, '\n')
	toSign = hex.AppendEncode(toSign, digest[:])

	key := v.key(secret, c)
	mac := key.macs.Get().(hash.Hash)
	mac.Reset()
	mac.Write(toSign)
	var sum [sha256.Size]byte
	got := mac.Sum(sum[:0])
	key.macs.Put(mac)
	return subtle.ConstantTimeCompare(got, want[:]) == 1
}

// key returns the signing key of a scope. Scopes of other days are dropped when a new one comes.
func (v *Verifier) key(secret string, c claim) *signingKey {
	if k, ok := v.keys.Load(c.credential); ok && k.(*signingKey).secret == secret {
		return k.(*signingKey)
	}
	derived := []byte("AWS4" + secret)
	for _, part := range []string{c.date, c.region, c.service, "aws4_request"} {
		mac := hmac.New(sha256.New, derived)
		mac.Write([]byte(part))
		derived = mac.Sum(nil)
	}
	k := &signingKey{secret: secret}
	k.macs.New = func() any { return hmac.New(sha256.New, derived) }
	v.keys.Range(func(old, _ any) bool {
		if !strings.Contains(old.(string), "/"+c.date+"/") {
			v.keys.Delete(old)
		}
		return true
	})
	if c.service == "lambda" || c.service == "logs" || c.service == "sts" {
		v.keys.Store(c.credential, k)
	}
	return k
}

// checkHeaders finds headers that AWS requires to be signed and that are not.
func checkHeaders(r *http.Request, c claim) error {
	if !slices.Contains(c.headers, "host") {
		return refuse(Invalid, "'Host' or ':authority' must be a 'SignedHeader' in the AWS Authorization.")
	}
	for name := range r.Header {
		if len(name) > 6 && strings.EqualFold(name[:6], "x-amz-") && !slices.Contains(c.headers, strings.ToLower(name)) {
			return refuse(Invalid, "'%s' must be a 'SignedHeader' in the AWS Authorization.", clip(name))
		}
	}
	return nil
}

// canonicalRequest builds what was signed.
func canonicalRequest(r *http.Request, c claim, query []string, payload string) []byte {
	b := make([]byte, 0, 1024)
	b = append(b, r.Method...)
	b = append(b, '\n')
	b = appendPath(b, r)
	b = append(b, '\n')
	b = appendQuery(b, query)
	b = append(b, '\n')
	for _, name := range c.headers {
		b = append(b, name...)
		b = append(b, ':')
		switch name {
		case "host":
			b = append(b, r.Host...)
		case "content-length":
			b = strconv.AppendInt(b, r.ContentLength, 10)
		default:
			for i, value := range r.Header.Values(name) {
				if i > 0 {
					b = append(b, ',')
				}
				b = appendTrimmed(b, value)
			}
		}
		b = append(b, '\n')
	}
	b = append(b, '\n')
	b = append(b, strings.Join(c.headers, ";")...)
	b = append(b, '\n')
	return append(b, payload...)
}

// appendPath appends the path as it was sent, encoded once more, as all services but S3 do.
func appendPath(b []byte, r *http.Request) []byte {
	raw, _, _ := strings.Cut(r.RequestURI, "?")
	if raw == "" || raw[0] != '/' {
		raw = r.URL.EscapedPath()
	}
	return appendEscaped(b, raw, true)
}

// appendQuery appends the parameters, encoded and sorted.
func appendQuery(b []byte, query []string) []byte {
	if len(query) == 0 {
		return b
	}
	encoded := make([]string, len(query))
	for i, p := range query {
		name, value, _ := strings.Cut(p, "=")
		encoded[i] = normal(name) + "=" + normal(value)
	}
	slices.SortFunc(encoded, func(a, b string) int {
		nameA, valueA, _ := strings.Cut(a, "=")
		nameB, valueB, _ := strings.Cut(b, "=")
		if c := strings.Compare(nameA, nameB); c != 0 {
			return c
		}
		return strings.Compare(valueA, valueB)
	})
	return append(b, strings.Join(encoded, "&")...)
}

// normal brings a sent part of the query to AWS's one encoding.
func normal(sent string) string {
	var plain []byte
	for i := 0; i < len(sent); i++ {
		if sent[i] == '%' && i+2 < len(sent) {
			if n, err := strconv.ParseUint(sent[i+1:i+3], 16, 8); err == nil {
				plain = append(plain, byte(n))
				i += 2
				continue
			}
		}
		if sent[i] == '+' {
			plain = append(plain, ' ')
			continue
		}
		plain = append(plain, sent[i])
	}
	return string(appendEscaped(nil, string(plain), false))
}

func appendEscaped(b []byte, s string, slash bool) []byte {
	const digits = "0123456789ABCDEF"
	for i := range len(s) {
		c := s[i]
		if c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '_' || c == '.' || c == '~' || slash && c == '/' {
			b = append(b, c)
			continue
		}
		b = append(b, '%', digits[c>>4], digits[c&15])
	}
	return b
}

// appendTrimmed appends a header's value without spaces around it, and with one space for each run inside.
func appendTrimmed(b []byte, value string) []byte {
	value = strings.Trim(value, " \t")
	for i := range len(value) {
		if value[i] != ' ' || value[i-1] != ' ' {
			b = append(b, value[i])
		}
	}
	return b
}

func clip(s string) string { return s[:min(len(s), 100)] }
