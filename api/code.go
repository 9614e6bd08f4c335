package api

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"lambent"
)

const (
	codePath = "/lambent/code/"
	codeLife = 10 * time.Minute // of a link, as Lambda's
)

// codeURL is a link to a function's archive. Its key stands in for a signature, as S3's presigned URLs have it.
func (c *call) codeURL(code lambent.CodeRef) string {
	expires := strconv.FormatInt(time.Now().Add(codeLife).Unix(), 10)
	return "http://" + c.r.Host + codePath + code.SHA256 + "?Size=" + strconv.FormatInt(code.Size, 10) + "&Key=" + c.who.AccessKeyID +
		"&Expires=" + expires + "&Signature=" + c.codeSignature(c.who.AccessKeyID, code.SHA256, expires)
}

func (c *call) codeSignature(key, digest, expires string) string {
	secret, _, _ := c.Credentials(key)
	mac := hmac.New(sha256.New, []byte("lambent code link "+secret))
	mac.Write([]byte(digest + "\n" + expires))
	return hex.EncodeToString(mac.Sum(nil))
}

// serveCode answers such a link.
func (c *call) serveCode() error {
	query := c.r.URL.Query()
	digest, key, expires := strings.TrimPrefix(c.r.URL.Path, codePath), query.Get("Key"), query.Get("Expires")
	_, _, known := c.Credentials(key)
	until, err := strconv.ParseInt(expires, 10, 64)
	if !known || err != nil || !hmac.Equal([]byte(c.codeSignature(key, digest, expires)), []byte(query.Get("Signature"))) {
		return lambent.Errorf(lambent.AccessDenied, "The link's signature is wrong.")
	}
	if time.Now().Unix() > until {
		return lambent.Errorf(lambent.AccessDenied, "Request has expired")
	}
	archive, err := c.Functions.OpenCode(c.ctx, lambent.CodeRef{SHA256: digest})
	if err != nil {
		return err
	}
	defer archive.Close()
	c.w.Header().Set("Content-Type", "application/zip")
	c.begin(http.StatusOK)
	if _, err := io.Copy(c.w, archive); err != nil {
		panic(http.ErrAbortHandler) // the head is sent: only an aborted connection tells
	}
	return nil
}
