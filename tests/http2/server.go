package main

import (
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
)

// Requests to /wait whose client has gone.
var cancelled atomic.Int64

func serve(address string) error {
	mux := http.NewServeMux()
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/plain")
		fmt.Fprintf(w, "%s %s", r.Method, r.Proto)
	})
	// The body comes back as it arrives, and its length in a trailer; the trailers of the request come back too.
	mux.HandleFunc("/echo", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Trailer", "X-Length")
		w.WriteHeader(200)
		flusher, buffer, length := w.(http.Flusher), make([]byte, 32*1024), 0
		flusher.Flush()
		for {
			n, err := r.Body.Read(buffer)
			length += n
			if n > 0 {
				if _, err := w.Write(buffer[:n]); err != nil {
					return
				}
				flusher.Flush()
			}
			if err == io.EOF {
				break
			}
			if err != nil {
				return
			}
		}
		w.Header().Set("X-Length", strconv.Itoa(length))
		for name, values := range r.Trailer {
			w.Header()[http.TrailerPrefix+"X-Echo-"+name] = values
		}
	})
	mux.HandleFunc("/bytes", func(w http.ResponseWriter, r *http.Request) {
		left, _ := strconv.Atoi(r.URL.Query().Get("n"))
		piece := make([]byte, 64*1024)
		for left > 0 {
			n, err := w.Write(piece[:min(left, len(piece))])
			if err != nil {
				return
			}
			left -= n
		}
	})
	mux.HandleFunc("/sink", func(w http.ResponseWriter, r *http.Request) {
		n, err := io.Copy(io.Discard, r.Body)
		if err == nil {
			fmt.Fprint(w, n)
		}
	})
	mux.HandleFunc("/length", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", "12345")
		if r.Method != http.MethodHead {
			w.Write(make([]byte, 12345))
		}
	})
	mux.HandleFunc("/status/", func(w http.ResponseWriter, r *http.Request) {
		status, _ := strconv.Atoi(strings.TrimPrefix(r.URL.Path, "/status/"))
		w.Header().Set("ETag", `"v1"`)
		w.WriteHeader(status)
	})
	mux.HandleFunc("/early", func(w http.ResponseWriter, r *http.Request) {
		for i := range 3 {
			w.Header().Set("Link", fmt.Sprintf("</%d.css>; rel=preload", i))
			w.WriteHeader(http.StatusEarlyHints)
		}
		w.Header().Del("Link")
		fmt.Fprint(w, "late")
	})
	// As many bytes of fields as the request asks for, and how many it had.
	mux.HandleFunc("/fields", func(w http.ResponseWriter, r *http.Request) {
		n, _ := strconv.Atoi(r.URL.Query().Get("n"))
		for i := range n / 1000 {
			w.Header().Set(fmt.Sprintf("X-Field-%d", i), strings.Repeat("v", 1000))
		}
		bytes := 0
		for name, values := range r.Header {
			if strings.HasPrefix(name, "X-Field-") {
				bytes += len(values[0])
			}
		}
		fmt.Fprint(w, bytes)
	})
	mux.HandleFunc("/wait", func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(200)
		w.(http.Flusher).Flush()
		<-r.Context().Done()
		cancelled.Add(1)
	})
	mux.HandleFunc("/cancelled", func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, cancelled.Load()) })
	// A response that is cut: the stream is reset behind its first bytes.
	mux.HandleFunc("/abort", func(w http.ResponseWriter, r *http.Request) {
		w.Write([]byte("part"))
		w.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	})
	// A response that is complete before the request is.
	mux.HandleFunc("/refuse", func(w http.ResponseWriter, r *http.Request) {
		http.Error(w, "no", http.StatusForbidden)
	})
	var protocols http.Protocols
	protocols.SetUnencryptedHTTP2(true)
	server := http.Server{Addr: address, Handler: mux, Protocols: &protocols, MaxHeaderBytes: 1 << 20}
	return server.ListenAndServe()
}
