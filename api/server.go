package api

import (
	"log/slog"
	"net/http"
	"time"
)

// NewServer makes the HTTP server of the API, with bounds that hold against slow and malicious clients.
func NewServer(handler http.Handler, logger *slog.Logger) *http.Server {
	return &http.Server{
		Handler:           handler,
		ReadHeaderTimeout: 10 * time.Second,
		ReadTimeout:       2 * time.Minute, // of the largest body; an invoke's answer is not bound by it
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    64 << 10,
		ErrorLog:          slog.NewLogLogger(logger.Handler(), slog.LevelDebug),
	}
}
