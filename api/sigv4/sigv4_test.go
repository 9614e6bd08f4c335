package sigv4_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	"pgregory.net/rapid"

	"lambent/api/sigv4"
)

const (
	keyID  = "AKIATESTTESTTEST0001"
	secret = "a/secret+of=the/tests/000000000000000000"
	region = "eu-central-1"
)

var noon = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

func verifier(now time.Time) *sigv4.Verifier {
	return &sigv4.Verifier{Region: region, Now: func() time.Time { return now }, Secret: func(id string) (string, bool) { return secret, id == keyID }}
}

// sent is a request to be signed.
type sent struct {
	method, target, body string // target: path, sent as it is, and query
	headers              map[string]string
	key, secret          string
	service, region      string
	signed               time.Time
	bodySum              string // what is signed; default: of the body
}

func sum(body string) string {
	s := sha256.Sum256([]byte(body))
	return hex.EncodeToString(s[:])
}

func (s sent) defaults() sent {
	set := func(to *string, value string) {
		if *to == "" {
			*to = value
		}
	}
	set(&s.method, "POST")
	set(&s.target, "/")
	set(&s.key, keyID)
	set(&s.secret, secret)
	set(&s.service, "lambda")
	set(&s.region, region)
	set(&s.bodySum, sum(s.body))
	if s.signed.IsZero() {
		s.signed = noon
	}
	return s
}

func (s sent) request(t testing.TB) *http.Request {
	t.Helper()
	r, err := http.NewRequest(s.method, "http://127.0.0.1:9070"+s.target, strings.NewReader(s.body))
	if err != nil {
		t.Fatal(err)
	}
	for name, value := range s.headers {
		r.Header.Set(name, value)
	}
	return r
}

// sign signs with the SDK's signer and passes the request over a wire, as a server reads it.
func (s sent) sign(t testing.TB) *http.Request {
	t.Helper()
	s = s.defaults()
	r := s.request(t)
	if err := v4.NewSigner().SignHTTP(t.Context(), aws.Credentials{AccessKeyID: s.key, SecretAccessKey: s.secret}, r, s.bodySum, s.service, s.region, s.signed); err != nil {
		t.Fatal(err)
	}
	return arrive(t, r)
}

// presign is sign for a URL that carries its signature.
func (s sent) presign(t testing.TB, expires string) *http.Request {
	t.Helper()
	s = s.defaults()
	r := s.request(t)
	query := r.URL.Query()
	query.Set("X-Amz-Expires", expires)
	r.URL.RawQuery = query.Encode()
	signed, headers, err := v4.NewSigner().PresignHTTP(t.Context(), aws.Credentials{AccessKeyID: s.key, SecretAccessKey: s.secret}, r, s.bodySum, s.service, s.region, s.signed)
	if err != nil {
		t.Fatal(err)
	}
	if r.URL, err = url.Parse(signed); err != nil {
		t.Fatal(err)
	}
	r.Header = headers
	return arrive(t, r)
}

func readRequest(wire []byte) (*http.Request, error) {
	return http.ReadRequest(bufio.NewReader(bytes.NewReader(wire)))
}

// arrive writes a request and reads it as a server does.
func arrive(t testing.TB, r *http.Request) *http.Request {
	t.Helper()
	var wire bytes.Buffer
	if err := r.Write(&wire); err != nil {
		t.Fatal(err)
	}
	got, err := readRequest(wire.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func verify(v *sigv4.Verifier, r *http.Request) (sigv4.Identity, bool, error) {
	asked := false
	id, err := v.Verify(r, func() (string, error) {
		asked = true
		body, err := io.ReadAll(r.Body)
		return sum(string(body)), err
	})
	return id, asked, err
}

// targets are paths and queries that are hard to bring to one form.
var targets = []string{
	"/",
	"/2015-03-31/functions/",
	"/2015-03-31/functions/f/invocations?Qualifier=%24LATEST",
	"/2015-03-31/functions/f:$LATEST/invocations",
	"/2015-03-31/functions/f%3A%24LATEST/invocations",
	"/2015-03-31/functions/arn%3Aaws%3Alambda%3Aeu-central-1%3A123456789012%3Afunction%3Af/configuration",
	"/2015-03-31/functions/arn:aws:lambda:eu-central-1:123456789012:function:f/configuration",
	"/2017-03-31/tags/arn%3Aaws%3Alambda%3Aeu-central-1%3A123456789012%3Afunction%3Af?tagKeys=b&tagKeys=a&tagKeys=a",
	"/a%2Fb%252Fc/%E2%82%AC/%e2%82%ac",
	"/a~b-c_d.e!f'g(h)i*j@k=l+m,n;o",
	"/?a=b+c&a=b%20c&plus=%2B",
	"/?empty&empty=&b=1&B=2&a=&=x",
	"/?q=%7E~%2A*&%C3%A4=%E2%82%AC",
	"/?list=a%2Cb&list=a%2Fb&list=a=b",
}

func TestAcceptsWhatTheSDKSigns(t *testing.T) {
	for _, target := range targets {
		for _, body := range []string{"", `{"a":1}`} {
			for _, method := range []string{"GET", "POST", "PUT", "DELETE"} {
				s := sent{method: method, target: target, body: body, headers: map[string]string{
					"Content-Type": "application/json", "X-Amz-Client-Context": "  two  spaces   inside ", "X-Other": "a,b"}}
				id, asked, err := verify(verifier(noon), s.sign(t))
				if err != nil || !asked || id.AccessKeyID != keyID || id.Service != "lambda" || id.BodySHA256 != sum(body) {
					t.Errorf("%s %s: %+v, asked for the body %v, %v", method, target, id, asked, err)
				}
			}
		}
	}
}

func TestAcceptsPresigned(t *testing.T) {
	for _, target := range targets {
		if strings.Contains(target, "&=x") {
			continue // a name has to be there for url.Values to keep it
		}
		id, _, err := verify(verifier(noon), sent{target: target, body: "x"}.presign(t, "60"))
		if err != nil || id.AccessKeyID != keyID {
			t.Errorf("%s: %+v, %v", target, id, err)
		}
	}
}

func TestABodyThatIsSignedAsAHeaderIsNotAskedFor(t *testing.T) {
	s := sent{body: "b", headers: map[string]string{"X-Amz-Content-Sha256": sum("b")}}
	id, asked, err := verify(verifier(noon), s.sign(t))
	if err != nil || asked || id.BodySHA256 != sum("b") {
		t.Errorf("%+v, asked for the body %v, %v", id, asked, err)
	}
}

func TestRefuses(t *testing.T) {
	signed := func(s sent, change func(*http.Request)) func(testing.TB) *http.Request {
		return func(t testing.TB) *http.Request {
			r := s.sign(t)
			if change != nil {
				change(r)
			}
			return r
		}
	}
	header := func(name, value string) func(*http.Request) {
		return func(r *http.Request) { r.Header.Set(name, value) }
	}
	authorization := func(old, now string) func(*http.Request) {
		return func(r *http.Request) {
			r.Header.Set("Authorization", strings.Replace(r.Header.Get("Authorization"), old, now, 1))
		}
	}
	cases := []struct {
		name    string
		request func(testing.TB) *http.Request
		kind    string
		asks    bool // for the body
	}{
		{"no signature", signed(sent{}, func(r *http.Request) { r.Header.Del("Authorization") }), sigv4.MissingToken, false},
		{"another scheme", signed(sent{}, header("Authorization", "Bearer x")), sigv4.Incomplete, false},
		{"only the algorithm", signed(sent{}, header("Authorization", "AWS4-HMAC-SHA256")), sigv4.Incomplete, false},
		{"nothing in it", signed(sent{}, header("Authorization", "AWS4-HMAC-SHA256 ")), sigv4.Incomplete, false},
		{"a stray part", signed(sent{}, authorization("Signature=", "Signatur=")), sigv4.Incomplete, false},
		{"two credentials", signed(sent{}, authorization("SignedHeaders=", "Credential=x, SignedHeaders=")), sigv4.Incomplete, false},
		{"two headers", signed(sent{}, func(r *http.Request) { r.Header.Add("Authorization", r.Header.Get("Authorization")) }), sigv4.Incomplete, false},
		{"short scope", signed(sent{}, authorization("/aws4_request", "")), sigv4.Incomplete, false},
		{"no date", signed(sent{}, func(r *http.Request) { r.Header.Del("X-Amz-Date") }), sigv4.Incomplete, false},
		{"odd date", signed(sent{}, header("X-Amz-Date", "yesterday")), sigv4.Incomplete, false},
		{"another day in the scope", signed(sent{}, authorization("/20261123/", "/20261122/")), sigv4.Invalid, false},
		{"unknown key", signed(sent{key: "AKIAOTHER"}, nil), sigv4.Unrecognized, false},
		{"another region", signed(sent{region: "us-east-1"}, nil), sigv4.Invalid, false},
		{"too old", signed(sent{signed: noon.Add(-5*time.Minute - time.Second)}, nil), sigv4.Invalid, false},
		{"of the future", signed(sent{signed: noon.Add(5*time.Minute + time.Second)}, nil), sigv4.Invalid, false},
		{"a header that is not signed", signed(sent{}, header("X-Amz-Invocation-Type", "Event")), sigv4.Invalid, false},
		{"the host is not signed", signed(sent{}, authorization("host;", "")), sigv4.Invalid, false},
		{"unsigned payload", signed(sent{bodySum: "UNSIGNED-PAYLOAD", headers: map[string]string{"X-Amz-Content-Sha256": "UNSIGNED-PAYLOAD"}}, nil), sigv4.Invalid, false},
		{"wrong secret", signed(sent{secret: "other"}, nil), sigv4.Invalid, true},
		{"another service than was signed", signed(sent{}, authorization("/lambda/", "/logs/")), sigv4.Invalid, true},
		{"another body", signed(sent{body: "a", bodySum: sum("b")}, nil), sigv4.Invalid, true},
		{"another method", signed(sent{}, func(r *http.Request) { r.Method = "PUT" }), sigv4.Invalid, true},
		{"another path", signed(sent{}, func(r *http.Request) { r.RequestURI = "/x" }), sigv4.Invalid, true},
		{"another query", signed(sent{}, func(r *http.Request) { r.URL.RawQuery = "a=b" }), sigv4.Invalid, true},
		{"another host", signed(sent{}, func(r *http.Request) { r.Host = "other" }), sigv4.Invalid, true},
		{"another header", signed(sent{headers: map[string]string{"X-Amz-Log-Type": "Tail"}}, header("X-Amz-Log-Type", "None")), sigv4.Invalid, true},
		{"signature is not hex", signed(sent{}, authorization("Signature=", "Signature=z")), sigv4.Invalid, true},
		{"short signature", signed(sent{}, func(r *http.Request) { r.Header.Set("Authorization", r.Header.Get("Authorization")[:180]) }), sigv4.Invalid, true},
		{"presigned, expired", func(t testing.TB) *http.Request { return sent{signed: noon.Add(-61 * time.Second)}.presign(t, "60") }, sigv4.Invalid, false},
		{"presigned for ever", func(t testing.TB) *http.Request { return sent{}.presign(t, "604801") }, sigv4.Incomplete, false},
		{"presigned for no time", func(t testing.TB) *http.Request { return sent{}.presign(t, "0") }, sigv4.Incomplete, false},
		{"presigned, unsigned payload", func(t testing.TB) *http.Request {
			return sent{body: "x", bodySum: "UNSIGNED-PAYLOAD"}.presign(t, "60")
		}, sigv4.Invalid, true},
		{"presigned, longer than was signed", func(t testing.TB) *http.Request {
			r := sent{}.presign(t, "60")
			r.URL.RawQuery = strings.Replace(r.URL.RawQuery, "X-Amz-Expires=60", "X-Amz-Expires=61", 1)
			return r
		}, sigv4.Invalid, true},
		{"presigned, one parameter twice", func(t testing.TB) *http.Request {
			r := sent{}.presign(t, "60")
			r.URL.RawQuery += "&X-Amz-Expires=600"
			return r
		}, sigv4.Incomplete, false},
		{"presigned, nothing but the algorithm", func(t testing.TB) *http.Request {
			r := sent{target: "/?X-Amz-Algorithm=AWS4-HMAC-SHA256"}.sign(t)
			r.Header.Del("Authorization")
			return r
		}, sigv4.Incomplete, false},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			_, asked, err := verify(verifier(noon), c.request(t))
			var refused *sigv4.Error
			if !errors.As(err, &refused) || refused.Type != c.kind || refused.Message == "" {
				t.Errorf("got %v, want %s", err, c.kind)
			}
			if asked != c.asks {
				t.Errorf("asked for the body: %v", asked)
			}
		})
	}
}

func TestTheEdgesOfTime(t *testing.T) {
	for _, signed := range []time.Time{noon.Add(-5 * time.Minute), noon.Add(5 * time.Minute)} {
		if _, _, err := verify(verifier(noon), sent{signed: signed}.sign(t)); err != nil {
			t.Errorf("signed at %s: %v", signed, err)
		}
	}
	if _, _, err := verify(verifier(noon), sent{signed: noon.Add(-60 * time.Second)}.presign(t, "60")); err != nil {
		t.Errorf("presigned: %v", err)
	}
}

func TestABodyThatCannotBeReadIsThatError(t *testing.T) {
	fault := errors.New("gone")
	_, err := verifier(noon).Verify(sent{}.sign(t), func() (string, error) { return "", fault })
	if !errors.Is(err, fault) {
		t.Errorf("got %v", err)
	}
}

func TestASecretThatChangesIsFollowed(t *testing.T) {
	now := secret
	v := verifier(noon)
	v.Secret = func(string) (string, bool) { return now, true }
	for _, now = range []string{secret, "another", secret} {
		if _, _, err := verify(v, sent{secret: now}.sign(t)); err != nil {
			t.Errorf("secret %s: %v", now, err)
		}
	}
}

func TestAnyPathAndQuery(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		path := "/" + url.PathEscape(rapid.StringN(0, 20, -1).Draw(rt, "path"))
		query := url.Values{}
		for range rapid.IntRange(0, 4).Draw(rt, "parameters") {
			query.Add("p"+rapid.StringN(0, 3, -1).Draw(rt, "name"), rapid.StringN(0, 6, -1).Draw(rt, "value"))
		}
		r := sent{target: path + "?" + query.Encode()}.sign(t)
		if _, _, err := verify(verifier(noon), r); err != nil {
			rt.Fatalf("%s: %v", r.RequestURI, err)
		}
	})
}

// FuzzVerify looks for a request that is accepted though it was not signed with the secret, and for panics.
func FuzzVerify(f *testing.F) {
	r := sent{}.sign(f)
	f.Add("POST / HTTP/1.1\r\nHost: h\r\nX-Amz-Date: 20261123T120000Z\r\nAuthorization: " + r.Header.Get("Authorization") + "\r\n\r\n")
	presigned := sent{}.presign(f, "60")
	f.Add("POST " + presigned.RequestURI + " HTTP/1.1\r\nHost: h\r\n\r\n")
	f.Add("GET /?%&a=%zz&X-Amz-Algorithm=AWS4-HMAC-SHA256 HTTP/1.1\r\nHost: h\r\nX-Amz-Date: 2\r\n\r\n")
	v := verifier(noon)
	v.Secret = func(string) (string, bool) { return "a secret that no input knows", true }
	f.Fuzz(func(t *testing.T, text string) {
		r, err := readRequest([]byte(text))
		if err != nil {
			return
		}
		if _, _, err := verify(v, r.WithContext(context.Background())); err == nil {
			t.Errorf("accepted: %q", text)
		}
	})
}

func BenchmarkVerify(b *testing.B) {
	r := sent{target: "/2015-03-31/functions/f/invocations", body: "x"}.sign(b)
	v, digest := verifier(noon), sum("x")
	b.ReportAllocs()
	for b.Loop() {
		if _, err := v.Verify(r, func() (string, error) { return digest, nil }); err != nil {
			b.Fatal(err)
		}
	}
}
