module outrigger/tests/http2

go 1.26
