package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

const mib = 1 << 20

type client struct {
	base        string
	http        *http.Client
	connections atomic.Int64
	failed      bool
}

func newClient(address string) *client {
	c := &client{base: "http://" + address}
	var protocols http.Protocols
	protocols.SetUnencryptedHTTP2(true)
	dialer := net.Dialer{}
	c.http = &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{
		Protocols:             &protocols,
		ExpectContinueTimeout: 10 * time.Second,
		DisableCompression:    true,
		DialContext: func(ctx context.Context, network, to string) (net.Conn, error) {
			c.connections.Add(1)
			return dialer.DialContext(ctx, network, to)
		},
	}}
	return c
}

func (c *client) check(name string, body func() error) {
	if err := body(); err != nil {
		c.failed = true
		fmt.Printf("FAILED %s: %v\n", name, err)
		return
	}
	fmt.Println("ok", name)
}

// do sends a request and returns the response and its body.
func (c *client) do(request *http.Request) (*http.Response, []byte, error) {
	response, err := c.http.Do(request)
	if err != nil {
		return nil, nil, err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if response.ProtoMajor != 2 {
		return nil, nil, errors.New(response.Proto)
	}
	return response, body, err
}

func (c *client) request(method, path string, body io.Reader) *http.Request {
	request, err := http.NewRequest(method, c.base+path, body)
	if err != nil {
		panic(err)
	}
	return request
}

// expect sends a request and compares status and, unless empty, the body.
func (c *client) expect(request *http.Request, status int, text string) error {
	response, body, err := c.do(request)
	if err != nil {
		return err
	}
	if response.StatusCode != status || (text != "" && string(body) != text) {
		return fmt.Errorf("%d %.60q, not %d %.60q", response.StatusCode, body, status, text)
	}
	return nil
}

func random(length int) []byte {
	body := make([]byte, length)
	rand.New(rand.NewSource(int64(length))).Read(body)
	return body
}

func (c *client) echo(path string, length int, known bool) error {
	sent := random(length)
	var reader io.Reader = bytes.NewReader(sent)
	if !known {
		reader = io.MultiReader(reader)
	}
	response, body, err := c.do(c.request("POST", path, reader))
	if err != nil {
		return err
	}
	if response.StatusCode != 200 || sha256.Sum256(body) != sha256.Sum256(sent) {
		return fmt.Errorf("%d with %d bytes, not the %d that were sent", response.StatusCode, len(body), length)
	}
	return nil
}

// parallel runs body count times at once and returns the first error.
func parallel(count int, body func(i int) error) error {
	results := make(chan error, count)
	for i := range count {
		go func() { results <- body(i) }()
	}
	var first error
	for range count {
		if err := <-results; err != nil && first == nil {
			first = err
		}
	}
	return first
}

func (c *client) run(kind string) bool {
	path := "/"
	echo := "/"
	if kind == "go" {
		echo = "/echo"
	}
	c.check("GET", func() error { return c.expect(c.request("GET", path, nil), 200, "") })
	c.check("HEAD", func() error { return c.expect(c.request("HEAD", path, nil), 200, "") })
	for _, length := range []int{0, 1, 16384, 65535, 65536, 3*mib + 7} {
		c.check(fmt.Sprintf("echo of %d bytes", length), func() error { return c.echo(echo, length, true) })
		c.check(fmt.Sprintf("echo of %d bytes without content-length", length), func() error { return c.echo(echo, length, false) })
	}
	c.check("1000 GETs one after another, on one connection", func() error {
		before := c.connections.Load()
		for range 1000 {
			if err := c.expect(c.request("GET", path, nil), 200, ""); err != nil {
				return err
			}
		}
		if more := c.connections.Load() - before; more > 0 {
			return fmt.Errorf("%d more connections", more)
		}
		return nil
	})
	c.check("100 echoes of 256 KiB at a time", func() error {
		return parallel(100, func(int) error { return c.echo(echo, 256*1024, true) })
	})
	if kind == "go" {
		c.runGo()
	}
	return !c.failed
}

func (c *client) runGo() {
	c.check("upload of 16 MiB", func() error {
		return c.expect(c.request("POST", "/sink", bytes.NewReader(random(16*mib))), 200, strconv.Itoa(16*mib))
	})
	c.check("download of 16 MiB", func() error {
		_, body, err := c.do(c.request("GET", "/bytes?n="+strconv.Itoa(16*mib), nil))
		if err == nil && len(body) != 16*mib {
			err = fmt.Errorf("%d bytes", len(body))
		}
		return err
	})
	c.check("trailers in both directions", c.trailers)
	c.check("HEAD with content-length", func() error {
		response, _, err := c.do(c.request("HEAD", "/length", nil))
		if err == nil && response.ContentLength != 12345 {
			err = fmt.Errorf("content-length %d", response.ContentLength)
		}
		return err
	})
	for _, status := range []int{204, 205, 304, 404, 500} {
		c.check(fmt.Sprint("status ", status), func() error {
			return c.expect(c.request("GET", fmt.Sprint("/status/", status), nil), status, "")
		})
	}
	c.check("103", c.early)
	c.check("Expect: 100-continue", c.expectContinue)
	c.check("Expect: 100-continue that is refused", func() error {
		request := c.request("POST", "/refuse", io.MultiReader(bytes.NewReader(random(mib))))
		request.Header.Set("Expect", "100-continue")
		return c.expect(request, 403, "no\n")
	})
	c.check("a response before the end of the request", func() error {
		read, write := io.Pipe()
		defer write.Close()
		return c.expect(c.request("POST", "/refuse", read), 403, "no\n")
	})
	for _, length := range []int{1000, 20_000, 55_000} {
		c.check(fmt.Sprintf("%d bytes of fields in both directions", length), func() error { return c.fields(length) })
	}
	c.check("too many bytes of fields", func() error {
		request := c.request("GET", "/fields", nil)
		for i := range 80 {
			request.Header.Set(fmt.Sprintf("X-Field-%d", i), strings.Repeat("v", 1000))
		}
		return c.expect(request, http.StatusRequestHeaderFieldsTooLarge, "")
	})
	c.check("200 cancels", c.cancels)
	c.check("a response that is cut, beside others", func() error {
		return parallel(40, func(i int) error {
			if i%2 == 0 {
				return c.echo("/echo", mib, true)
			}
			_, body, err := c.do(c.request("GET", "/abort", nil))
			if err == nil {
				return fmt.Errorf("no error behind %q", body)
			}
			return nil
		})
	})
	c.check("ping-pong on one stream", c.pingPong)
	c.check("GETs beside 30 downloads that are not read", c.stalled)
}

func (c *client) trailers() error {
	request := c.request("POST", "/echo", io.MultiReader(strings.NewReader("body")))
	request.Trailer = http.Header{"X-Check": {"sum"}}
	response, body, err := c.do(request)
	if err != nil {
		return err
	}
	if string(body) != "body" || response.Trailer.Get("X-Length") != "4" || response.Trailer.Get("X-Echo-X-Check") != "sum" {
		return fmt.Errorf("%q %v", body, response.Trailer)
	}
	return nil
}

func (c *client) early() error {
	hints := 0
	trace := httptrace.ClientTrace{Got1xxResponse: func(code int, header textproto.MIMEHeader) error {
		if code == http.StatusEarlyHints && header.Get("Link") != "" {
			hints++
		}
		return nil
	}}
	request := c.request("GET", "/early", nil)
	if err := c.expect(request.WithContext(httptrace.WithClientTrace(request.Context(), &trace)), 200, "late"); err != nil {
		return err
	}
	if hints != 3 {
		return fmt.Errorf("%d early hints", hints)
	}
	return nil
}

func (c *client) expectContinue() error {
	var continued atomic.Bool
	trace := httptrace.ClientTrace{Got100Continue: func() { continued.Store(true) }}
	request := c.request("POST", "/sink", bytes.NewReader(random(mib)))
	request.Header.Set("Expect", "100-continue")
	err := c.expect(request.WithContext(httptrace.WithClientTrace(request.Context(), &trace)), 200, strconv.Itoa(mib))
	if err == nil && !continued.Load() {
		err = errors.New("no 100")
	}
	return err
}

func (c *client) fields(length int) error {
	request := c.request("GET", fmt.Sprint("/fields?n=", length), nil)
	for i := range length / 1000 {
		request.Header.Set(fmt.Sprintf("X-Field-%d", i), strings.Repeat("v", 1000))
	}
	response, body, err := c.do(request)
	if err != nil {
		return err
	}
	bytes := 0
	for name, values := range response.Header {
		if strings.HasPrefix(name, "X-Field-") {
			bytes += len(values[0])
		}
	}
	if string(body) != strconv.Itoa(length) || bytes != length {
		return fmt.Errorf("%d %q, and %d bytes came back", response.StatusCode, body, bytes)
	}
	return nil
}

func (c *client) cancels() error {
	count := func() int {
		_, body, _ := c.do(c.request("GET", "/cancelled", nil))
		n, _ := strconv.Atoi(string(body))
		return n
	}
	before := count()
	err := parallel(200, func(int) error {
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		response, err := c.http.Do(c.request("GET", "/wait", nil).WithContext(ctx))
		if err == nil {
			response.Body.Close()
		}
		return err
	})
	if err != nil {
		return err
	}
	for range 100 {
		if count()-before == 200 {
			return c.expect(c.request("GET", "/", nil), 200, "GET HTTP/2.0")
		}
		time.Sleep(50 * time.Millisecond)
	}
	return fmt.Errorf("the server saw %d of 200", count()-before)
}

func (c *client) pingPong() error {
	read, write := io.Pipe()
	response, err := c.http.Do(c.request("POST", "/echo", read))
	if err != nil {
		return err
	}
	defer response.Body.Close()
	answer := make([]byte, 10)
	for i := range 500 {
		ball := fmt.Appendf(nil, "%010d", i)
		if _, err := write.Write(ball); err != nil {
			return err
		}
		if _, err := io.ReadFull(response.Body, answer); err != nil || !bytes.Equal(answer, ball) {
			return fmt.Errorf("%q, %v", answer, err)
		}
	}
	write.Close()
	_, err = io.ReadAll(response.Body)
	return err
}

func (c *client) stalled() error {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	for range 30 {
		response, err := c.http.Do(c.request("GET", "/bytes?n=16777216", nil).WithContext(ctx))
		if err != nil {
			return err
		}
		defer response.Body.Close()
	}
	for range 200 {
		if err := c.expect(c.request("GET", "/", nil), 200, "GET HTTP/2.0"); err != nil {
			return err
		}
	}
	return nil
}
