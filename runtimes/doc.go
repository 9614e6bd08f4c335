// Package runtimes knows the language runtimes: what each needs in its sandbox (interpreter, libraries, bootstrap), which
// of them this host has, and the bootstraps that speak the Runtime API for interpreted languages.
//
// Open looks for interpreters, once per interpreter: what it learns is kept in Options.Dir beside the bootstrap that was
// written for it. Nothing is run and nothing is written afterwards; Launch only composes.
//
// # The file system of a function
//
// A sandbox's root is made of Base, which is the same for all, and of Launch.Mounts:
//
//	/usr/bin /usr/lib ...   the host's, from Base
//	/etc                    written by Open, with the host's certificates, from Base
//	/var/lang               the language, where the host has it elsewhere
//	/var/runtime            the bootstrap, compiled for that interpreter
//	/var/task /opt /tmp     the function's code and layers, and its own space: the worker's
package runtimes
