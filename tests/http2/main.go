// An HTTP/2 server and client of Go's net/http, in the clear with prior knowledge, for `tests/heavier http2-interop`.
//
//	http2 server ADDRESS        serves until it is ended
//	http2 client KIND ADDRESS   sends every kind of request to a server of this program (go) or to nghttpd, through a proxy. Prints a line
//	                            for each check; exits with 1 if one failed.
package main

import (
	"fmt"
	"log"
	"os"
)

func main() {
	switch {
	case len(os.Args) == 3 && os.Args[1] == "server":
		log.Fatal(serve(os.Args[2]))
	case len(os.Args) == 4 && os.Args[1] == "client":
		if !newClient(os.Args[3]).run(os.Args[2]) {
			os.Exit(1)
		}
	default:
		fmt.Fprintln(os.Stderr, "usage: http2 server ADDRESS | client go|nghttpd ADDRESS")
		os.Exit(2)
	}
}
