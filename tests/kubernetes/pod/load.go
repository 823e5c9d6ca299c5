package main

import (
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net/http"
	"sync"
	"time"
)

// A pod that answered, or a version: how often, and when first and last (Unix time in ms).
type answers struct {
	Count int   `json:"count"`
	First int64 `json:"first"`
	Last  int64 `json:"last"`
}

func (a *answers) add() {
	now := time.Now().UnixMilli()
	if a.Count == 0 {
		a.First = now
	}
	a.Count, a.Last = a.Count+1, now
}

type counts struct {
	sync.Mutex
	Sent     int                 `json:"sent"`
	Answered int                 `json:"answered"`
	Lost     int                 `json:"lost"`
	Why      []string            `json:"why"` // the last 20 lost requests
	Pods     map[string]*answers `json:"pods"`
	Versions map[string]*answers `json:"versions"`
}

// load sends GETs at a constant rate, whether or not earlier ones have been answered, every second one over a new connection. A request is
// lost if it is not answered with 200 within 10 s.
func load(url string, rate int) {
	c := &counts{Why: []string{}, Pods: map[string]*answers{}, Versions: map[string]*answers{}}
	clients := []*http.Client{
		{Timeout: 10 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: 100}},
		{Timeout: 10 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}},
	}
	http.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		c.Lock()
		defer c.Unlock()
		json.NewEncoder(w).Encode(c)
	})
	go func() { log.Fatal(http.ListenAndServe(":9000", nil)) }()
	var active sync.WaitGroup
	stop := make(chan struct{})
	go func() {
		terminated()
		close(stop)
	}()
	ticker := time.NewTicker(time.Second / time.Duration(rate))
	for number := 0; ; number++ {
		select {
		case <-stop:
			active.Wait()
			return
		case <-ticker.C:
			active.Go(func() { c.send(clients[number%2], url) })
		}
	}
}

func (c *counts) send(client *http.Client, url string) {
	c.Lock()
	c.Sent++
	c.Unlock()
	started := time.Now()
	pod, version, err := once(client, url)
	c.Lock()
	defer c.Unlock()
	if err != nil {
		c.Lost++
		why := fmt.Sprintf("%s after %d ms: %s", started.Format("15:04:05.000"), time.Since(started).Milliseconds(), err)
		log.Print(why)
		c.Why = append(c.Why, why)
		c.Why = c.Why[max(0, len(c.Why)-20):]
		return
	}
	c.Answered++
	for _, of := range []struct {
		all  map[string]*answers
		name string
	}{{c.Pods, pod}, {c.Versions, version}} {
		if of.all[of.name] == nil {
			of.all[of.name] = &answers{}
		}
		of.all[of.name].add()
	}
}

func once(client *http.Client, url string) (pod, version string, err error) {
	response, err := client.Get(url)
	if err != nil {
		return "", "", err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		return "", "", err
	}
	if response.StatusCode != http.StatusOK {
		return "", "", fmt.Errorf("%d %s", response.StatusCode, body)
	}
	return response.Header.Get("x-pod"), response.Header.Get("x-version"), nil
}
