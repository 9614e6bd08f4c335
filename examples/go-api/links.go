package main

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"
)

const (
	maxLinks = 10000
	maxURL   = 2048 // bytes
	maxBody  = 1 << 16
)

var slugs = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,39}$`)

// Link is a short name for a URL.
type Link struct {
	Slug    string    `json:"slug"`
	URL     string    `json:"url"`
	Hits    int       `json:"hits"`
	Created time.Time `json:"created"`
}

var (
	errTaken = errors.New("the slug is taken")
	errFull  = errors.New("there are too many links")
)

// links keeps links in memory: they live as long as the sandbox. A real shortener keeps them in a database.
type links struct {
	now func() time.Time

	mu  sync.Mutex
	all map[string]*Link
}

func newLinks(now func() time.Time) *links { return &links{now: now, all: map[string]*Link{}} }

// add stores a link. An empty slug gets a random one.
func (l *links) add(slug, target string) (Link, error) {
	if slug == "" {
		slug = strings.ToLower(rand.Text()[:8])
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, taken := l.all[slug]; taken {
		return Link{}, errTaken
	}
	if len(l.all) >= maxLinks {
		return Link{}, errFull
	}
	link := &Link{Slug: slug, URL: target, Created: l.now().UTC().Truncate(time.Second)}
	l.all[slug] = link
	return *link, nil
}

// follow returns where a link leads, and counts.
func (l *links) follow(slug string) (string, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	link, ok := l.all[slug]
	if !ok {
		return "", false
	}
	link.Hits++
	return link.URL, true
}

// remove reports whether there was such a link.
func (l *links) remove(slug string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	_, ok := l.all[slug]
	delete(l.all, slug)
	return ok
}

// list returns the links by name.
func (l *links) list() []Link {
	l.mu.Lock()
	defer l.mu.Unlock()
	list := make([]Link, 0, len(l.all))
	for _, link := range l.all {
		list = append(list, *link)
	}
	slices.SortFunc(list, func(a, b Link) int { return strings.Compare(a.Slug, b.Slug) })
	return list
}

// newHandler routes the API.
func newHandler(l *links) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) {
		answer(w, http.StatusOK, map[string]string{
			"POST /links":          `{"url": "https://example.com", "slug": "optional"} makes a link`,
			"GET /links":           "lists the links",
			"DELETE /links/{slug}": "removes a link",
			"GET /{slug}":          "leads to the link's URL",
		})
	})
	mux.HandleFunc("GET /links", func(w http.ResponseWriter, _ *http.Request) { answer(w, http.StatusOK, l.list()) })
	mux.HandleFunc("POST /links", l.post)
	mux.HandleFunc("DELETE /links/{slug}", func(w http.ResponseWriter, r *http.Request) {
		if !l.remove(r.PathValue("slug")) {
			fail(w, http.StatusNotFound, "there is no such link")
			return
		}
		w.WriteHeader(http.StatusNoContent)
	})
	mux.HandleFunc("GET /{slug}", func(w http.ResponseWriter, r *http.Request) {
		target, ok := l.follow(r.PathValue("slug"))
		if !ok {
			fail(w, http.StatusNotFound, "there is no such link")
			return
		}
		w.Header().Set("Cache-Control", "no-store")
		w.Header().Set("Location", target)
		w.WriteHeader(http.StatusFound)
	})
	return mux
}

func (l *links) post(w http.ResponseWriter, r *http.Request) {
	var body struct{ URL, Slug string }
	decoder := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxBody))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&body); err != nil {
		fail(w, http.StatusBadRequest, "the body is not what is wanted: "+err.Error())
		return
	}
	target, err := url.Parse(body.URL)
	if err != nil || (target.Scheme != "http" && target.Scheme != "https") || target.Host == "" || len(body.URL) > maxURL {
		fail(w, http.StatusBadRequest, "url is an absolute http or https URL of at most 2048 bytes")
		return
	}
	if body.Slug == "links" || (body.Slug != "" && !slugs.MatchString(body.Slug)) {
		fail(w, http.StatusBadRequest, "slug is 1 to 40 lower-case letters, digits and hyphens, and not \"links\"")
		return
	}
	link, err := l.add(body.Slug, target.String())
	switch {
	case errors.Is(err, errTaken):
		fail(w, http.StatusConflict, err.Error())
	case err != nil:
		fail(w, http.StatusInsufficientStorage, err.Error())
	default:
		w.Header().Set("Location", "/"+link.Slug)
		answer(w, http.StatusCreated, link)
	}
}

func answer(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body) // into memory
}

func fail(w http.ResponseWriter, status int, message string) {
	answer(w, status, map[string]string{"error": message})
}
