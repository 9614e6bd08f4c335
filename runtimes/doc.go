// Package runtimes knows the language runtimes: what each needs in its sandbox (interpreter, libraries, bootstrap), which
// of them this host has, and the bootstraps that speak the Runtime API for interpreted languages.
package runtimes
