package lookup

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/scheduler/auth"
	"github.com/drover-fleet/drover/scheduler/lookup/rate"
	"github.com/drover-fleet/drover/scheduler/state"
)

// stream is a watch over HTTP within a synctest bubble.
type stream struct {
	*httptest.ResponseRecorder
	mu    sync.Mutex
	taken int
	end   context.CancelFunc
	done  chan struct{}
}

func (s *stream) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ResponseRecorder.Write(b)
}

// news is what has come since it was asked last.
func (s *stream) news() string {
	synctest.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	all := s.Body.String()
	defer func() { s.taken = len(all) }()
	return all[s.taken:]
}

func (s *stream) ended() bool {
	synctest.Wait()
	select {
	case <-s.done:
		return true
	default:
		return false
	}
}

func (f *fixture) watch(path string) *stream {
	ctx, cancel := context.WithCancel(context.Background())
	r := httptest.NewRequest(http.MethodGet, path, nil).WithContext(ctx)
	r.Header.Set("X-Auth-Token", "root-secret")
	s := &stream{ResponseRecorder: httptest.NewRecorder(), end: cancel, done: make(chan struct{})}
	go func() { f.table.ServeHTTP(s, r); close(s.done) }()
	return s
}

func (f *fixture) setReady(id string, ready bool) {
	f.t.Helper()
	f.editInstance(id, func(i *fleetv1.Instance) { i.Observed.Ready = ready })
}

const watchPath = irisPath + "&watch=true"

func TestWatchOverHTTP(t *testing.T) {
	run(t, func(f *fixture) {
		f.put(service("iris", "s1", "own"))
		f.put(instance("a", "s1", 30001))
		synctest.Wait()
		s := f.watch(watchPath)
		defer s.end()
		first := s.news()
		want := fmt.Sprintf("id: %d\ndata: %s\n\n", f.index, strings.TrimSpace(f.get(http.MethodGet, irisPath, "root-secret").Body.String()))
		if first != want || s.Header().Get("Content-Type") != "text/event-stream" || s.Header().Get(headerStaleness) != "0" {
			t.Fatalf("%v\ngot  %qwant %q", s.Header(), first, want)
		}
		f.put(service("rose", "s2", "own"))
		f.put(instance("z", "s2", 30009))
		if got := s.news(); got != "" {
			t.Errorf("another service's change: %q", got)
		}
		f.setReady("a", false)
		if got := s.news(); !strings.Contains(got, `"host_endpoints":[]`) {
			t.Errorf("withdrawn: %q", got)
		}
		time.Sleep(keepAlive)
		if got := s.news(); got != ":\n\n" {
			t.Errorf("kept alive with %q", got)
		}
		f.editService(func(s *fleetv1.Service) { s.Desired.State = fleetv1.DesiredStopped })
		if got := s.news(); !strings.HasPrefix(got, "event: error\ndata: {\"error_code\":\"DROVER.4092\"") || !s.ended() {
			t.Errorf("stopped: %q", got)
		}
		f.put(service("lily", "s3", "own"))
		synctest.Wait()
		gone := f.watch(strings.Replace(watchPath, "iris", "lily", 1))
		defer gone.end()
		gone.news()
		f.apply(state.Delete(f.store.View().Service(fleetv1.Default, "lily").GetMeta().GetRevision(), state.ServiceKey(fleetv1.Default, "lily")))
		if got := gone.news(); !strings.Contains(got, "DROVER.0404") || !gone.ended() {
			t.Errorf("deleted: %q", got)
		}
	})
}

func TestWatchEnds(t *testing.T) {
	run(t, func(f *fixture) {
		f.put(service("iris", "s1", "own"))
		f.put(instance("a", "s1", 30001))
		synctest.Wait()
		client := f.watch(watchPath)
		client.news()
		client.end()
		if !client.ended() {
			t.Error("a watch outlives its client")
		}
		revoked := f.watch(watchPath)
		defer revoked.end()
		revoked.news()
		root := f.store.View().TokenBySecret(auth.Hash("root-secret"))
		f.apply(state.Delete(root.GetMeta().GetRevision(), state.Key{Kind: fleetv1.KindToken, Key: "root"}))
		f.setReady("a", false)
		if got := revoked.news(); strings.Contains(got, "host_endpoints") || !strings.Contains(got, "DROVER.0401") || !revoked.ended() {
			t.Errorf("a revoked token: %q", got)
		}
	})
}

func TestWatchSaysThatItIsStale(t *testing.T) {
	var mu sync.Mutex
	begin, lost := time.Time{}, false
	age := func() (time.Duration, bool) {
		mu.Lock()
		defer mu.Unlock()
		if !lost {
			return 0, true
		}
		return time.Since(begin), true
	}
	set := func(l bool) { mu.Lock(); begin, lost = time.Now(), l; mu.Unlock() }
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		f.table.cfg.Staleness = age
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan struct{})
		go func() { f.table.Run(ctx); close(done) }()
		defer func() { cancel(); <-done }()
		f.basics()
		f.put(service("iris", "s1", "own"))
		synctest.Wait()
		any, bounded := f.watch(watchPath), f.watch(watchPath+"&max_stale=5")
		defer any.end()
		any.news()
		bounded.news()
		set(true)
		time.Sleep(staleAfter)
		if got := any.news(); got != "" {
			t.Errorf("before it is stale: %q", got)
		}
		time.Sleep(staleEvery)
		for _, s := range []*stream{any, bounded} {
			if got := s.news(); got != "event: stale\ndata: true\n\n" {
				t.Errorf("stale: %q", got)
			}
		}
		time.Sleep(3 * time.Second)
		if got := bounded.news(); !strings.Contains(got, "DROVER.0503") || !bounded.ended() {
			t.Errorf("past its bound: %q", got)
		}
		late := f.watch(watchPath)
		defer late.end()
		if got := late.news(); !strings.HasPrefix(got, "id: ") || !strings.HasSuffix(got, "\n\nevent: stale\ndata: true\n\n") {
			t.Errorf("opened while it is stale: %q", got)
		}
		set(false)
		time.Sleep(staleEvery)
		if got := any.news(); got != "event: stale\ndata: false\n\n" {
			t.Errorf("with a leader again: %q", got)
		}
	})
}

func TestBlockingQuery(t *testing.T) {
	run(t, func(f *fixture) {
		f.put(service("iris", "s1", "own"))
		f.put(instance("a", "s1", 30001))
		synctest.Wait()
		index := f.index
		blocking := func(index uint64, wait string) string { return fmt.Sprintf("%s&index=%d%s", irisPath, index, wait) }
		took := func(path string, header ...string) (*httptest.ResponseRecorder, time.Duration) {
			start := time.Now()
			return f.get(http.MethodGet, path, "root-secret", header...), time.Since(start)
		}
		if w, d := took(blocking(index-1, "")); w.Code != http.StatusOK || d != 0 {
			t.Errorf("an older index: %d after %v", w.Code, d)
		}
		if w, d := took(blocking(index, "&wait=5s")); w.Code != http.StatusOK || d != 5*time.Second {
			t.Errorf("without a change: %d after %v", w.Code, d)
		}
		if w, d := took(blocking(index, "&wait=0s")); w.Code != http.StatusOK || d != 0 {
			t.Errorf("without patience: %d after %v", w.Code, d)
		}
		etag := f.get(http.MethodGet, irisPath, "root-secret").Header().Get("ETag")
		if w, d := took(blocking(index, ""), "If-None-Match", etag); w.Code != http.StatusNotModified || d != defaultWait {
			t.Errorf("with the present ETag: %d after %v", w.Code, d)
		}
		if w, d := took(blocking(index, ""), "If-None-Match", `"another"`); w.Code != http.StatusOK || d != 0 {
			t.Errorf("with another ETag: %d after %v", w.Code, d)
		}
		// A lease that is lost changes the answer and not the store.
		go func() {
			time.Sleep(time.Second)
			f.mu.Lock()
			f.lost["n1"] = true
			f.mu.Unlock()
			f.table.NodeChanged("n1")
		}()
		if w, d := took(blocking(index, "")); d != time.Second || !strings.Contains(w.Body.String(), fmt.Sprintf(`"host_endpoints":[],"index":%d`, index+1)) {
			t.Errorf("a lost lease: %s after %v", w.Body, d)
		}
		go func() {
			time.Sleep(time.Second)
			f.editService(func(s *fleetv1.Service) { s.Desired.State = fleetv1.DesiredStopped })
		}()
		if w, d := took(blocking(index+1, "")); w.Code != http.StatusConflict || d != time.Second {
			t.Errorf("stopped meanwhile: %d after %v", w.Code, d)
		}
	})
}

func TestTooManyWait(t *testing.T) {
	run(t, func(f *fixture) {
		held := 0
		f.table.cfg.Hold = func(string, bool) (func(), bool) {
			if held == 1 {
				return nil, false
			}
			held++
			return func() { held-- }, true
		}
		f.put(service("iris", "s1", "own"))
		synctest.Wait()
		s := f.watch(watchPath)
		s.news()
		for _, path := range []string{watchPath, irisPath + "&index=99"} {
			if w := f.get(http.MethodGet, path, "root-secret"); w.Code != http.StatusTooManyRequests || w.Header().Get("Retry-After") != "1" || !strings.Contains(w.Body.String(), "DROVER.4293") {
				t.Errorf("%s: %d %v %s", path, w.Code, w.Header(), w.Body)
			}
		}
		if w := f.get(http.MethodGet, irisPath, "root-secret"); w.Code != http.StatusOK {
			t.Errorf("a look-up that doesn't wait: %d", w.Code)
		}
		s.end()
		if !s.ended() || held != 0 {
			t.Errorf("%d are held", held)
		}
	})
}

// A look-up counts once, whatever comes of it, and so does a watch.
func TestLimits(t *testing.T) {
	run(t, func(f *fixture) {
		alone := func() ([]string, []string) { return []string{"a"}, []string{"a"} }
		f.table.cfg.Limiter = rate.New(rate.Config{Limits: rate.Limits{Account: 5, User: 4}, Self: "a", Members: alone, Now: time.Now})
		f.put(&fleetv1.Token{Meta: meta("ada", "t4"), Role: fleetv1.RoleAdmin, SecretSha256: auth.Hash("ada-secret")})
		f.put(service("iris", "s1", "own"))
		f.put(instance("a", "s1", 30001))
		synctest.Wait()
		s := f.watch(watchPath)
		defer s.end()
		for range 10 {
			f.setReady("a", false)
			f.setReady("a", true)
			s.news()
		}
		f.get(http.MethodGet, irisPath, "")
		if w := f.get(http.MethodGet, irisPath, "root-secret"); w.Code != http.StatusOK {
			t.Errorf("the second: %d %s", w.Code, w.Body)
		}
		if w := f.get(http.MethodGet, strings.Replace(irisPath, "iris", "rose", 1), "root-secret"); w.Code != http.StatusNotFound {
			t.Errorf("the third: %d %s", w.Code, w.Body)
		}
		if _, err := f.table.Service().Get(f.call(), &fleetv1.LookupServiceGetRequest{Service: "iris"}); err != nil {
			t.Errorf("the fourth: %v", err)
		}
		for _, path := range []string{irisPath, watchPath} {
			w := f.get(http.MethodGet, path, "root-secret")
			if w.Code != http.StatusTooManyRequests || !strings.Contains(w.Body.String(), `DROVER.4292`) ||
				!strings.Contains(w.Body.String(), `user \"root\" may look services up 4 times a minute: ask again in 63 s`) || w.Header().Get("Retry-After") != "63" {
				t.Errorf("the user's fifth: %d %v %s", w.Code, w.Header(), w.Body)
			}
		}
		if _, err := f.table.Service().Get(f.call(), &fleetv1.LookupServiceGetRequest{Service: "iris"}); status.Code(err) != codes.ResourceExhausted {
			t.Errorf("over gRPC: %v", err)
		}
		if w := f.get(http.MethodGet, irisPath, "ada-secret"); w.Code != http.StatusOK {
			t.Errorf("another user: %d %s", w.Code, w.Body)
		}
		if w := f.get(http.MethodGet, irisPath, "ada-secret"); w.Code != http.StatusTooManyRequests || !strings.Contains(w.Body.String(), `DROVER.4291`) || !strings.Contains(w.Body.String(), `account \"default\"`) {
			t.Errorf("the account's sixth: %d %s", w.Code, w.Body)
		}
	})
}

func (f *fixture) call() context.Context {
	return auth.NewContext(context.Background(), auth.CallerOf(f.store.View().TokenBySecret(auth.Hash("root-secret"))))
}

func TestGetOverGRPC(t *testing.T) {
	run(t, func(f *fixture) {
		f.put(service("iris", "s1", "own"))
		f.put(service("open", "s2", "shared"))
		f.put(instance("a", "s1", 30001))
		synctest.Wait()
		s := f.table.Service()
		want, err := f.table.Endpoints(fleetv1.Default, "iris")
		if err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		for _, req := range []*fleetv1.LookupServiceGetRequest{
			{Service: "iris"}, {Service: "s1", Project: fleetv1.Default, MaxStaleSeconds: 1}, {Service: "iris", Index: f.index, WaitSeconds: 2},
		} {
			if got, err := s.Get(f.call(), req); err != nil || !proto.Equal(got.GetAnswer(), want) || got.GetStaleness().GetStale() {
				t.Errorf("%v: %v, %v", req, got, err)
			}
		}
		if d := time.Since(start); d != 2*time.Second {
			t.Errorf("waited for %v", d)
		}
		for _, c := range []struct {
			req  *fleetv1.LookupServiceGetRequest
			code codes.Code
			says string
		}{
			{&fleetv1.LookupServiceGetRequest{}, codes.InvalidArgument, "service: is missing"},
			{&fleetv1.LookupServiceGetRequest{Service: "rose"}, codes.NotFound, `no service "rose"`},
			{&fleetv1.LookupServiceGetRequest{Service: "iris", Project: "other"}, codes.NotFound, `in project "other"`},
			{&fleetv1.LookupServiceGetRequest{Service: "open"}, codes.FailedPrecondition, "which is public"},
			{&fleetv1.LookupServiceGetRequest{Service: "iris", MaxStaleSeconds: -1}, codes.InvalidArgument, "max_stale_seconds: -1"},
			{&fleetv1.LookupServiceGetRequest{Service: "iris", WaitSeconds: 61, Index: 1}, codes.InvalidArgument, "wait_seconds: 61"},
			{&fleetv1.LookupServiceGetRequest{Service: "iris", WaitSeconds: 1}, codes.InvalidArgument, "index: is missing"},
		} {
			if _, err := s.Get(f.call(), c.req); status.Code(err) != c.code || !strings.Contains(err.Error(), c.says) {
				t.Errorf("%v: %v", c.req, err)
			}
		}
		if _, err := s.Get(context.Background(), &fleetv1.LookupServiceGetRequest{Service: "iris"}); status.Code(err) != codes.Unauthenticated {
			t.Errorf("nobody: %v", err)
		}
		f.age.Store(int64(3 * time.Second))
		if got, err := s.Get(f.call(), &fleetv1.LookupServiceGetRequest{Service: "iris"}); err != nil || !proto.Equal(got.GetStaleness(), &fleetv1.Staleness{Millis: 3000, Stale: true}) {
			t.Errorf("stale: %v, %v", got, err)
		}
		if _, err := s.Get(f.call(), &fleetv1.LookupServiceGetRequest{Service: "iris", MaxStaleSeconds: 2}); status.Code(err) != codes.Unavailable {
			t.Errorf("past the bound: %v", err)
		}
		f.table.cfg.Valid = func(context.Context) error { return errors.New("revoked") }
		if _, err := s.Get(f.call(), &fleetv1.LookupServiceGetRequest{Service: "iris", Index: f.index, WaitSeconds: 1}); err == nil || err.Error() != "revoked" {
			t.Errorf("revoked while it waited: %v", err)
		}
	})
}

func FuzzReadQuery(f *testing.F) {
	for _, s := range []string{hostEndpoints, "", "type=x", hostEndpoints + "&index=1&wait=30s", hostEndpoints + "&watch=true", hostEndpoints + "&max_stale=5", "%zz", "a;b"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		q, no := readQuery(s)
		if no != nil {
			if no.status != http.StatusBadRequest || no.msg == "" {
				t.Errorf("%q: %+v", s, no)
			}
			return
		}
		if q.wait < 0 || q.wait > maxWait || q.bound < 0 || q.bound > maxBound*time.Second || q.watch && q.blocks || q.wait > 0 && !q.blocks {
			t.Errorf("%q read as %+v", s, q)
		}
	})
}
