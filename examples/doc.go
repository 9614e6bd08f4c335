// Package examples holds functions that are worth having: pdf-stamp in Python, markdown in Node.js, go-api in Go. Each is a
// directory to deploy, with an event to try it on and tests in its own language, which this package's test runs.
package examples
