package service

import (
	"net/http"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/osse101/usercache"
)

// Cache is what the administration needs of a cache.
type Cache interface {
	Stats() usercache.Stats
	Flush()
}

// AdminHandler serves the administration, which belongs on a listener that
// strangers cannot reach:
//
//	GET  /admin/cache/stats  the cache's figures as JSON
//	POST /admin/cache/flush  drops every cached answer
//	GET  /metrics            everything, for Prometheus
//
// A page that a browser on this machine shows can neither flush nor read.
func AdminHandler(cache Cache, metrics prometheus.Gatherer) http.Handler {
	mux := http.NewServeMux()
	handle(mux, http.MethodGet, "/admin/cache/stats", func(w http.ResponseWriter, _ *http.Request) {
		writeJSON(w, http.StatusOK, cache.Stats())
	})
	handle(mux, http.MethodPost, "/admin/cache/flush", func(w http.ResponseWriter, _ *http.Request) {
		cache.Flush()
		w.WriteHeader(http.StatusNoContent)
	})
	mux.Handle("GET /metrics", promhttp.HandlerFor(metrics, promhttp.HandlerOpts{}))
	return http.NewCrossOriginProtection().Handler(mux)
}
