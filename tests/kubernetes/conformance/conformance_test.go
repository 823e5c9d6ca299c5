// Package conformance runs Gateway API's conformance suite with the flags of the suite.
//
// The suite skips a test if one of its features is not supported; none of the mesh may be skipped. It repeats each request until the
// answer fits, and some answers fit without a mesh. So each test must also have used its routes: the counters of the clients' sidecars
// are read after it, and a route that no request has used fails the test.
package conformance

import (
	"bytes"
	"context"
	"io"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/yaml"

	"sigs.k8s.io/gateway-api/conformance"
	"sigs.k8s.io/gateway-api/conformance/utils/suite"
	"sigs.k8s.io/gateway-api/pkg/features"
)

func TestConformance(t *testing.T) {
	options := conformance.DefaultOptions(t)
	used := hits{}
	options.Hook = func(t *testing.T, test suite.ConformanceTest, s *suite.ConformanceTestSuite) {
		switch {
		case !slices.Contains(test.Features, features.SupportMesh) || t.Failed():
		case t.Skipped():
			t.Error("a test of the mesh was skipped: the mesh does not report one of", test.Features)
		default:
			used.check(t, test, s)
		}
	}
	conformance.RunConformanceWithOptions(t, options)
}

// hits has the number of requests of each match of each route, by the name that the sidecars count it under.
type hits map[string]int

// check fails the test if the clients' sidecars have counted no request for one of its routes.
func (before hits) check(t *testing.T, test suite.ConformanceTest, s *suite.ConformanceTestSuite) {
	now := count(t, s)
	for _, manifest := range test.Manifests {
		for _, route := range routes(t, manifest) {
			requests := 0
			for name, count := range now {
				if strings.HasPrefix(name, route) {
					requests += count - before[name]
				}
			}
			t.Logf("%s: %d requests", route, requests)
			if requests == 0 {
				t.Errorf("no sidecar has used %s", route)
			}
		}
	}
	for name, count := range now {
		before[name] = count
	}
}

// routes returns the names of the routes in a manifest: httproute/NAMESPACE/NAME/.
func routes(t *testing.T, manifest string) []string {
	content, err := conformance.Manifests.ReadFile(manifest)
	require.NoError(t, err)
	var names []string
	documents := yaml.NewYAMLOrJSONDecoder(bytes.NewReader(content), 4096)
	for {
		object := unstructured.Unstructured{}
		if err := documents.Decode(&object); err == io.EOF {
			return names
		}
		require.NoError(t, err)
		if kind := object.GetKind(); kind == "HTTPRoute" || kind == "GRPCRoute" {
			names = append(names, strings.ToLower(kind)+"/"+object.GetNamespace()+"/"+object.GetName()+"/")
		}
	}
}

var counted = regexp.MustCompile(`(?m)^outrigger_requests_total\{(.*)\} ([0-9]+)`)
var named = regexp.MustCompile(`(?:^|,)route="([^"]*)"`)

// count reads the outbound requests that the sidecars of all test applications have counted.
func count(t *testing.T, s *suite.ConformanceTestSuite) hits {
	all := hits{}
	for _, namespace := range []string{suite.MeshNamespace, suite.MeshConsumerNamespace} {
		pods := s.Clientset.CoreV1().Pods(namespace)
		list, err := pods.List(context.Background(), metav1.ListOptions{LabelSelector: "app=echo"})
		require.NoError(t, err)
		for _, pod := range list.Items {
			metrics, err := pods.ProxyGet("http", pod.Name, "15020", "/metrics", nil).DoRaw(context.Background())
			require.NoError(t, err, "the metrics of the sidecar of %s", pod.Name)
			for _, line := range counted.FindAllStringSubmatch(string(metrics), -1) {
				route := named.FindStringSubmatch(line[1])
				if route == nil || !strings.Contains(line[1], `direction="outbound"`) {
					continue
				}
				requests, err := strconv.Atoi(line[2])
				require.NoError(t, err)
				all[route[1]] += requests
			}
		}
	}
	return all
}
