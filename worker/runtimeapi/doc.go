// Package runtimeapi serves Lambda's Runtime API to the processes of one sandbox, on the sandbox's own listener.
//
// It is a small HTTP/1.1 server of its own, because the way from a caller's payload to the function and back is what a warm
// invoke costs. The goroutine that invokes writes the event to the connection on which the runtime waits, and reads the
// runtime's answer from that connection itself: nothing is handed from goroutine to goroutine.
//
//	         GET next                Invoke                POST response, POST error
//	starting ---------> ready -----------------> invoking ----------------------------> answered
//	   |                  ^                                                                 |
//	   | POST init/error  `----------------------------- GET next --------------------------'
//	   v
//	failed                 any state: Interrupt (the process ended) -> ended; Reset -> starting
//
// What is behind the listener is hostile: lines, heads, bodies, and the number of connections are bounded, and whoever stalls
// or floods holds up nobody but itself.
package runtimeapi
