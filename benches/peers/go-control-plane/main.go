// A small control plane on go-control-plane, which `outrigger-benches scale` measures beside Outrigger's. It serves the same services
// over delta ADS and mutual TLS: each has a listener, a route configuration, a cluster and endpoints. It signs no certificates and reads
// no files: the shared endpoint is changed through its admin port.
package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"flag"
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
	"strconv"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	routerv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/envoyproxy/go-control-plane/pkg/cache/types"
	"github.com/envoyproxy/go-control-plane/pkg/cache/v3"
	"github.com/envoyproxy/go-control-plane/pkg/resource/v3"
	"github.com/envoyproxy/go-control-plane/pkg/server/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
)

const shared = "shared"

func main() {
	log.SetFlags(0)
	listen := flag.String("listen", "", "address of the gRPC server")
	admin := flag.String("admin", "", "address of the admin port: GET /ready, POST /endpoint?port=PORT")
	services := flag.Int("services", 0, "number of services: shared, and s0 to the last")
	roots := flag.String("roots", "", "PEM of the CA of the proxies")
	chain := flag.String("chain", "", "PEM of this server's certificate")
	key := flag.String("key", "", "PEM of its key")
	withParent := flag.Bool("exit-with-parent", false, "end when the parent process has ended")
	flag.Parse()
	if *withParent {
		go exitWith(os.Getppid())
	}

	// A cache for each type, of which a change wakes only the streams that have subscribed to the name. The alternative,
	// SnapshotCache, compares all resources of each stream at each change.
	endpoints := cache.NewLinearCache(resource.EndpointType)
	caches := map[string]cache.Cache{resource.EndpointType: endpoints}
	resources := map[string]map[string]types.Resource{}
	for _, kind := range []string{resource.ListenerType, resource.RouteType, resource.ClusterType, resource.EndpointType} {
		resources[kind] = map[string]types.Resource{}
	}
	add(resources, shared, 20000)
	for service := range *services - 1 {
		add(resources, fmt.Sprintf("s%d", service), 8080)
	}
	endpoints.SetResources(resources[resource.EndpointType])
	for _, kind := range []string{resource.ListenerType, resource.RouteType, resource.ClusterType} {
		caches[kind] = cache.NewLinearCache(kind, cache.WithInitialResources(resources[kind]))
	}
	mux := &cache.MuxCache{
		Classify:      func(request *cache.Request) string { return request.GetTypeUrl() },
		ClassifyDelta: func(request *cache.DeltaRequest) string { return request.GetTypeUrl() },
		Caches:        caches,
	}

	transport, err := mutualTLS(*roots, *chain, *key)
	if err != nil {
		log.Fatal(err)
	}
	listener, err := net.Listen("tcp", *listen)
	if err != nil {
		log.Fatal(err)
	}
	grpcServer := grpc.NewServer(
		grpc.Creds(credentials.NewTLS(transport)),
		// The same as Outrigger's control plane; proxies send PINGs themselves, every 10 s.
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: 20 * time.Second, Timeout: 10 * time.Second}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 5 * time.Second, PermitWithoutStream: true}),
	)
	discoveryv3.RegisterAggregatedDiscoveryServiceServer(grpcServer, server.NewServer(context.Background(), mux, nil))
	go func() { log.Fatal(grpcServer.Serve(listener)) }()

	http.HandleFunc("GET /ready", func(http.ResponseWriter, *http.Request) {})
	http.HandleFunc("POST /endpoint", func(writer http.ResponseWriter, request *http.Request) {
		port, err := strconv.ParseUint(request.URL.Query().Get("port"), 10, 16)
		if err == nil {
			err = endpoints.UpdateResource(canonical(shared), assignment(canonical(shared), uint32(port)))
		}
		if err != nil {
			http.Error(writer, err.Error(), http.StatusBadRequest)
		}
	})
	log.Fatal(http.ListenAndServe(*admin, nil))
}

// exitWith ends this process after its parent, which does not wait for it.
func exitWith(parent int) {
	for os.Getppid() == parent {
		time.Sleep(time.Second)
	}
	os.Exit(1)
}

func mutualTLS(roots, chain, key string) (*tls.Config, error) {
	certificate, err := tls.LoadX509KeyPair(chain, key)
	if err != nil {
		return nil, err
	}
	pem, err := os.ReadFile(roots)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("%s has no certificate", roots)
	}
	return &tls.Config{
		Certificates: []tls.Certificate{certificate},
		ClientCAs:    pool,
		ClientAuth:   tls.RequireAndVerifyClientCert,
		MinVersion:   tls.VersionTLS13,
	}, nil
}

// canonical is the name of a service's routes, cluster and endpoints.
func canonical(service string) string {
	return service + ".mesh.svc.cluster.local:80"
}

// add adds the four resources of a service.
func add(resources map[string]map[string]types.Resource, service string, port uint32) {
	name, asked := canonical(service), service+".mesh:80"
	manager := &hcmv3.HttpConnectionManager{
		StatPrefix: name,
		RouteSpecifier: &hcmv3.HttpConnectionManager_Rds{
			Rds: &hcmv3.Rds{ConfigSource: ads(), RouteConfigName: name},
		},
		HttpFilters: []*hcmv3.HttpFilter{{
			Name:       "envoy.filters.http.router",
			ConfigType: &hcmv3.HttpFilter_TypedConfig{TypedConfig: anything(&routerv3.Router{})},
		}},
	}
	resources[resource.ListenerType][asked] = &listenerv3.Listener{
		Name:             asked,
		TrafficDirection: corev3.TrafficDirection_OUTBOUND,
		ApiListener:      &listenerv3.ApiListener{ApiListener: anything(manager)},
	}
	resources[resource.RouteType][name] = &routev3.RouteConfiguration{
		Name: name,
		VirtualHosts: []*routev3.VirtualHost{{
			Name:    name,
			Domains: []string{"*"},
			Routes: []*routev3.Route{{
				Match:  &routev3.RouteMatch{PathSpecifier: &routev3.RouteMatch_Prefix{Prefix: "/"}},
				Action: &routev3.Route_Route{Route: &routev3.RouteAction{ClusterSpecifier: &routev3.RouteAction_Cluster{Cluster: name}}},
			}},
		}},
	}
	resources[resource.ClusterType][name] = &clusterv3.Cluster{
		Name:                 name,
		ConnectTimeout:       durationpb.New(5 * time.Second),
		ClusterDiscoveryType: &clusterv3.Cluster_Type{Type: clusterv3.Cluster_EDS},
		EdsClusterConfig:     &clusterv3.Cluster_EdsClusterConfig{EdsConfig: ads()},
	}
	resources[resource.EndpointType][name] = assignment(name, port)
}

func assignment(name string, port uint32) *endpointv3.ClusterLoadAssignment {
	address := &corev3.Address{Address: &corev3.Address_SocketAddress{SocketAddress: &corev3.SocketAddress{
		Address:       "127.0.0.1",
		PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: port},
	}}}
	return &endpointv3.ClusterLoadAssignment{
		ClusterName: name,
		Endpoints: []*endpointv3.LocalityLbEndpoints{{LbEndpoints: []*endpointv3.LbEndpoint{{
			HostIdentifier: &endpointv3.LbEndpoint_Endpoint{Endpoint: &endpointv3.Endpoint{Address: address}},
		}}}},
	}
}

func ads() *corev3.ConfigSource {
	return &corev3.ConfigSource{
		ConfigSourceSpecifier: &corev3.ConfigSource_Ads{Ads: &corev3.AggregatedConfigSource{}},
		ResourceApiVersion:    corev3.ApiVersion_V3,
	}
}

func anything(message proto.Message) *anypb.Any {
	wrapped, err := anypb.New(message)
	if err != nil {
		log.Fatal(err)
	}
	return wrapped
}
