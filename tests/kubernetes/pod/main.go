// Command pod is what the pods of the test cluster run: servers, callers and a constant load that counts lost requests. It knows nothing of
// a mesh.
//
//	pod serve PORT...      HTTP, whose answers name the pod; with GREETING_PORT a server that speaks first, with GRPC_PORT gRPC's health service
//	pod get URL            one GET, whatever its status is, which is printed before the body
//	pod call URL...        one GET each, until each has been answered once with 200, 60 s at most
//	pod greet HOST:PORT    waits for the greeting of a server that speaks first, and prints the echo of a line
//	pod load URL RATE      RATE requests per second until SIGTERM; serves its counts as JSON on port 9000
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"sync"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
)

func main() {
	log.SetFlags(log.Ltime | log.Lmicroseconds)
	if len(os.Args) < 3 {
		log.Fatal("usage: pod serve PORT... | get URL | call URL... | greet HOST:PORT | load URL RATE")
	}
	switch os.Args[1] {
	case "serve":
		serve(os.Args[2:])
	case "get":
		response, err := (&http.Client{Timeout: 5 * time.Second}).Get(os.Args[2])
		if err != nil {
			log.Fatal(err)
		}
		body, _ := io.ReadAll(response.Body)
		fmt.Printf("%d %s", response.StatusCode, body)
	case "call":
		call(os.Args[2:])
	case "greet":
		greet(os.Args[2])
	case "load":
		rate, err := strconv.Atoi(os.Args[3])
		if err != nil {
			log.Fatal(err)
		}
		load(os.Args[2], rate)
	default:
		log.Fatal("unknown command ", os.Args[1])
	}
}

// serve answers until SIGTERM, then finishes the active requests.
func serve(ports []string) {
	pod, _ := os.Hostname()
	handler := http.NewServeMux()
	handler.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("x-pod", pod)
		w.Header().Set("x-version", os.Getenv("VERSION"))
		json.NewEncoder(w).Encode(map[string]any{
			"pod": pod, "version": os.Getenv("VERSION"), "host": r.Host, "path": r.URL.Path, "proto": r.Proto, "peer": r.RemoteAddr,
			"port": r.Context().Value(http.LocalAddrContextKey).(net.Addr).String(), "headers": r.Header,
		})
	})
	handler.HandleFunc("/slow", func(w http.ResponseWriter, r *http.Request) {
		time.Sleep(time.Second)
		fmt.Fprintln(w, pod)
	})
	var servers []*http.Server
	for _, port := range ports {
		address := port
		if _, _, err := net.SplitHostPort(port); err != nil {
			address = ":" + port
		}
		protocols := new(http.Protocols)
		protocols.SetHTTP1(true)
		protocols.SetUnencryptedHTTP2(true)
		server := &http.Server{Addr: address, Handler: handler, Protocols: protocols}
		servers = append(servers, server)
		go func() {
			if err := server.ListenAndServe(); err != http.ErrServerClosed {
				log.Fatal(err)
			}
		}()
	}
	if port := os.Getenv("GREETING_PORT"); port != "" {
		go greetings(port, pod)
	}
	if port := os.Getenv("GRPC_PORT"); port != "" {
		listener := listen(port)
		server := grpc.NewServer()
		healthpb.RegisterHealthServer(server, health.NewServer())
		go server.Serve(listener)
	}
	terminated()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	var all sync.WaitGroup
	for _, server := range servers {
		all.Go(func() { server.Shutdown(ctx) })
	}
	all.Wait()
}

// greetings says hello to each connection before it reads, as MySQL does, then echoes lines.
func greetings(port, pod string) {
	listener := listen(port)
	for {
		connection, err := listener.Accept()
		if err != nil {
			log.Fatal(err)
		}
		go func() {
			defer connection.Close()
			fmt.Fprintf(connection, "hello from %s\n", pod)
			io.Copy(connection, connection)
		}()
	}
}

func listen(port string) net.Listener {
	listener, err := net.Listen("tcp", ":"+port)
	if err != nil {
		log.Fatal(err)
	}
	return listener
}

func terminated() {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT)
	<-signals
}

func call(urls []string) {
	client := &http.Client{Timeout: 5 * time.Second}
	end := time.Now().Add(60 * time.Second)
	for _, url := range urls {
		for {
			why := get(client, url)
			if why == nil {
				break
			}
			log.Print(url, ": ", why)
			if time.Now().After(end) {
				os.Exit(1)
			}
			time.Sleep(200 * time.Millisecond)
		}
	}
}

func get(client *http.Client, url string) error {
	response, err := client.Get(url)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode != http.StatusOK {
		err = fmt.Errorf("%d %s", response.StatusCode, body)
	}
	if err == nil {
		fmt.Printf("%s", body)
	}
	return err
}

func greet(address string) {
	connection, err := net.DialTimeout("tcp", address, 5*time.Second)
	if err != nil {
		log.Fatal(err)
	}
	connection.SetDeadline(time.Now().Add(5 * time.Second))
	reader := bufio.NewReader(connection)
	started := time.Now()
	hello, err := reader.ReadString('\n')
	if err != nil {
		log.Fatal("no greeting: ", err)
	}
	fmt.Fprintln(connection, "ping")
	echo, err := reader.ReadString('\n')
	if err != nil {
		log.Fatal("no echo: ", err)
	}
	fmt.Printf("%s%safter %d ms\n", hello, echo, time.Since(started).Milliseconds())
}
