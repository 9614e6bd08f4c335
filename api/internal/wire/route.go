package wire

import (
	"net/url"
	"strings"
)

// maxLabels is how many labels a route has at most.
const maxLabels = 3

// Router finds the operation of a request.
type Router struct {
	routes map[string][]route // by method and first segment
	invoke *Op
}

type route struct {
	op       *Op
	segments []string // behind the first; a label's is empty
	names    []string // of the labels
	query    string   // has to be a part of the query; empty: any
}

// Labels are the values of the labels in a path, decoded.
type Labels struct {
	names  []string
	values [maxLabels]string
}

// Get returns a label's value; empty when the route has no such label.
func (l *Labels) Get(name string) string {
	for i, n := range l.names {
		if n == name {
			return l.values[i]
		}
	}
	return ""
}

// NewRouter makes a Router for all operations.
func NewRouter() *Router {
	r := &Router{routes: make(map[string][]route)}
	for i := range operations {
		op := &operations[i]
		path, query, _ := strings.Cut(op.URI, "?")
		parts := strings.Split(strings.Trim(path, "/"), "/")
		next := route{op: op, query: query}
		for _, part := range parts[1:] {
			if strings.HasPrefix(part, "{") {
				next.names = append(next.names, strings.Trim(part, "{}+"))
				part = ""
			}
			next.segments = append(next.segments, part)
		}
		key := op.Method + " " + parts[0]
		if query != "" { // before the route of the same path without one
			r.routes[key] = append([]route{next}, r.routes[key]...)
		} else {
			r.routes[key] = append(r.routes[key], next)
		}
		if op.Name == "Invoke" {
			r.invoke = op
		}
	}
	return r
}

// The path of Invoke, which most requests are.
const (
	invokePrefix = "/2015-03-31/functions/"
	invokeSuffix = "/invocations"
)

// Route finds the operation of a method, an escaped path and a raw query; nil when there is none.
func (r *Router) Route(method, path, query string) (*Op, Labels) {
	if method == "POST" && len(path) > len(invokePrefix)+len(invokeSuffix) && strings.HasPrefix(path, invokePrefix) && strings.HasSuffix(path, invokeSuffix) {
		name := path[len(invokePrefix) : len(path)-len(invokeSuffix)]
		if strings.IndexByte(name, '/') < 0 {
			return r.match(&route{op: r.invoke, segments: []string{""}, names: []string{"FunctionName"}}, name)
		}
	}
	path = strings.TrimSuffix(strings.TrimPrefix(path, "/"), "/")
	first, rest, _ := strings.Cut(path, "/")
	routes := r.routes[method+" "+first]
	for i := range routes {
		if routes[i].query != "" && !hasParameter(query, routes[i].query) {
			continue
		}
		if op, labels := r.match(&routes[i], rest); op != nil {
			return op, labels
		}
	}
	return nil, Labels{}
}

func hasParameter(query, parameter string) bool {
	for p := range strings.SplitSeq(query, "&") {
		if p == parameter {
			return true
		}
	}
	return false
}

// match compares what is behind the first segment.
func (r *Router) match(route *route, path string) (*Op, Labels) {
	labels := Labels{names: route.names}
	n := 0
	for i, want := range route.segments {
		segment, rest, more := strings.Cut(path, "/")
		if more != (i < len(route.segments)-1) || segment == "" {
			return nil, Labels{}
		}
		path = rest
		if want != "" {
			if want != segment {
				return nil, Labels{}
			}
			continue
		}
		value, err := url.PathUnescape(segment)
		if err != nil {
			return nil, Labels{}
		}
		labels.values[n] = value
		n++
	}
	return route.op, labels
}
