package api

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"time"

	"github.com/google/uuid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/registry"
	"github.com/drover-fleet/drover/scheduler/auth"
	"github.com/drover-fleet/drover/scheduler/authority"
	"github.com/drover-fleet/drover/scheduler/place"
	"github.com/drover-fleet/drover/scheduler/raftstore"
	"github.com/drover-fleet/drover/scheduler/session"
	"github.com/drover-fleet/drover/scheduler/state"
	"github.com/drover-fleet/drover/storage"
)

// Store is the scheduler's picture of the cluster.
type Store interface {
	View() state.ReadView
	Subscribe() state.Feed
}

// Log is the replicated log.
type Log interface {
	Propose(ctx context.Context, cmd *fleetv1.Command) (state.Result, error)
	// IsLeader says whether this scheduler leads, as far as it knows, and has applied all that earlier leaders committed.
	IsLeader() bool
	// ReadIndex returns when the store holds everything that was committed before the call.
	ReadIndex(ctx context.Context) error
}

// Sessions are the connected agents.
type Sessions interface {
	LastHeartbeat(node string) time.Time
	Pull(instanceID string) *fleetv1.PullProgress
	OnPull(f func(instanceID string)) (cancel func())
	DeviceSample(node, device string) *fleetv1.DeviceSample
	OpenRelay(ctx context.Context, node string, order *fleetv1.RelayOrder) (session.Relay, error)
}

// Events is the store of what happened. The filters it gets are complete; an empty project is all.
type Events interface {
	// List answers the newest events that the filter selects, oldest first.
	List(ctx context.Context, f *fleetv1.EventFilter) ([]*fleetv1.Event, error)
	// Watch sends what List answers, then each new event, until ctx ends.
	Watch(ctx context.Context, f *fleetv1.EventFilter, send func([]*fleetv1.Event) error) error
}

// Images resolves image references.
type Images interface {
	Resolve(ctx context.Context, image string) (registry.Image, error)
}

// Endpoints answers look-ups: ListEndpoints says what the HTTP look-up says.
type Endpoints interface {
	Endpoints(project, service string) (*fleetv1.ListEndpointsResponse, error)
}

// Members tells about the schedulers themselves.
type Members interface {
	ClusterStatus() *fleetv1.GetClusterStatusResponse
	List() []*fleetv1.Member
	// Remove and RotateKey write in the name of the caller, and under the request ID, of as. RotateKey makes nothing and
	// only waits when as is nil.
	Remove(ctx context.Context, member string, force bool, as *fleetv1.Command) (*fleetv1.Member, error)
	Transfer(ctx context.Context, member string) (*fleetv1.Member, error)
	RotateKey(ctx context.Context, as *fleetv1.Command) (id string, err error)
}

// Backups copy the state out and in.
type Backups interface {
	// Backup writes a backup file of all that was committed before the call.
	Backup(ctx context.Context, w io.Writer) error
	// Restore replaces the state of an empty cluster by that of a backup file; token is the caller's. Before all of
	// the file has been read and checked nothing changes.
	Restore(ctx context.Context, file io.Reader, token string) (*fleetv1.RestoreResponse, error)
}

// Jobs tells how jobs get on, beyond what their ledgers say. Only the leader knows.
type Jobs interface {
	// Progress is nil when no more is known than the ledger says.
	Progress(jobID string) (*fleetv1.JobProgress, []*fleetv1.JobTask)
	// OnProgress has f, which must be quick, called with each job whose progress has changed.
	OnProgress(f func(jobID string)) (cancel func())
}

// Config is what the API is made of. All fields but Identity and Jobs are needed.
type Config struct {
	Store     Store
	Log       Log
	Sessions  Sessions
	Events    Events
	Images    Images
	Endpoints Endpoints
	Members   Members
	Backups   Backups
	// Identity is what certificates are signed with; nil in a cluster without TLS.
	Identity *Identity
	// Jobs is nil where nobody runs them: then their ledgers alone are shown.
	Jobs Jobs
	// Storage opens what the jobs of a project may use; whoever asks closes it.
	Storage func(project string) (*storage.Storage, error)
	// Sealer encrypts the secrets of keys, apps and storage keys.
	Sealer auth.Sealer
	// MaxServicesPerUser is the quota of SPEC §3, MaxJobsPerProject that of §5.
	MaxServicesPerUser, MaxJobsPerProject int
	// MaxAppsPerProject and MaxCredentialsPerUser, tokens and keys together, keep the state small.
	MaxAppsPerProject, MaxCredentialsPerUser int
	Now                                      func() time.Time
	Logger                                   *slog.Logger
}

// API is the operator's API. Its methods are called through gRPC alone.
type API struct {
	cfg       Config
	admission admission
	submitted submitted
	looking   *shares // of the storage of projects
	planner   planner
	possible  place.Possible
	joining   chan struct{} // holds one while a join is under way
	making    chan struct{} // holds one while a credential is made
}

// Identity signs certificates.
type Identity struct {
	authority.Issuer
	// Schedulers answers the gRPC addresses, "host:port", at which members and operators reach schedulers.
	Schedulers func() []string
}

// New makes the API.
func New(cfg Config) *API {
	return &API{cfg: cfg, admission: admission{pending: map[string]*fleetv1.Service{}}, submitted: submitted{pending: map[string]*fleetv1.Job{}}, looking: newShares(),
		planner: planner{store: cfg.Store}, joining: make(chan struct{}, 1), making: make(chan struct{}, 1)}
}

// Register adds every service of the operator's API to a gRPC server, which must use UnaryErrors and
// StreamErrors and put an auth.Caller into the context.
func (a *API) Register(s grpc.ServiceRegistrar) {
	fleetv1.RegisterNodeServiceServer(s, &nodeServer{API: a})
	fleetv1.RegisterDeviceServiceServer(s, &deviceServer{API: a})
	fleetv1.RegisterFlavorServiceServer(s, &flavorServer{API: a})
	fleetv1.RegisterPoolServiceServer(s, &poolServer{API: a})
	fleetv1.RegisterQuotaServiceServer(s, &quotaServer{API: a})
	fleetv1.RegisterModelServiceServer(s, &modelServer{API: a})
	fleetv1.RegisterServiceServiceServer(s, &serviceServer{API: a})
	fleetv1.RegisterInstanceServiceServer(s, &instanceServer{API: a})
	fleetv1.RegisterEventServiceServer(s, &eventServer{API: a})
	fleetv1.RegisterClusterServiceServer(s, &clusterServer{API: a})
	fleetv1.RegisterJoinServiceServer(s, &joinServer{API: a})
	fleetv1.RegisterIdentityServiceServer(s, &identityServer{API: a})
	fleetv1.RegisterBackupServiceServer(s, &backupServer{API: a})
	fleetv1.RegisterTenantServiceServer(s, &tenantServer{API: a})
	fleetv1.RegisterCredentialServiceServer(s, &credentialServer{API: a})
	fleetv1.RegisterJobServiceServer(s, &jobServer{API: a})
	fleetv1.RegisterStorageKeyServiceServer(s, &storageKeyServer{API: a})
}

func (a *API) view() state.ReadView { return a.cfg.Store.View() }

func caller(ctx context.Context) auth.Caller {
	c, _ := auth.FromContext(ctx)
	return c
}

// project is the one that the request names, or the caller's.
func project(ctx context.Context, named string) string {
	if named != "" {
		return named
	}
	if p := caller(ctx).Project; p != "" {
		return p
	}
	return fleetv1.Default
}

// newMeta is the meta of an object that the caller makes now.
func newMeta(ctx context.Context, from *fleetv1.Meta, now time.Time) *fleetv1.Meta {
	c := caller(ctx)
	account := c.Account
	if account == "" {
		account = fleetv1.Default
	}
	return &fleetv1.Meta{
		Name: from.GetName(), Id: uuid.NewString(), Account: account, Project: project(ctx, from.GetProject()),
		Generation: 1, CreateTime: timestamppb.New(now), CreatedBy: cmp.Or(c.User, c.Name), Tags: from.GetTags(),
	}
}

// inProject puts a new object into its project, which must exist: it belongs to the project's account, and its write has
// needs.
func inProject(view state.ReadView, meta *fleetv1.Meta) (needs []*fleetv1.ObjectRef, err error) {
	p := view.Project(meta.GetProject())
	if p == nil {
		return nil, missing("", "project", meta.GetProject(), namesOf(view.Projects()))
	}
	meta.Account = p.GetMeta().GetAccount()
	return need(fleetv1.KindProject, meta.GetProject()), nil
}

// need names an object that must exist when a write is applied; those that exist always need not be named.
func need(kind, name string) []*fleetv1.ObjectRef {
	if name == fleetv1.Default {
		return nil
	}
	return []*fleetv1.ObjectRef{{Kind: kind, Id: name}}
}

// Bounds of a mutation.
const (
	maxAttempts     = 5
	mutationTimeout = 30 * time.Second
	maxRequestID    = 128
)

// request is a mutation's request message.
type request interface {
	proto.Message
	GetRequestId() string
}

// planned is what one look at the store came to: a write, or nil when all stands as asked. Then only the
// request's ID, if it has one, is written: it may not be used for anything else.
type planned func(ctx context.Context, view state.ReadView, now time.Time) (*fleetv1.Write, error)

// mutate carries out a request: plan is called with a view that holds what this scheduler has applied, and again
// when what it saw has changed before its write was applied. A write proves by its commit that this scheduler still
// led; when there is none, plan has the last word with a view that holds all that was committed.
func (a *API) mutate(ctx context.Context, req request, plan planned) error {
	ctx, cancel := context.WithTimeout(ctx, mutationTimeout)
	defer cancel()
	digest, err := begin(req)
	if err != nil {
		return err
	}
	fresh := false // the store holds all that was committed before the request
	verify := func() error { fresh = true; return a.cfg.Log.ReadIndex(ctx) }
	if !a.cfg.Log.IsLeader() {
		if err := verify(); err != nil {
			return err
		}
	}
	var last state.Rejection
	for tries := 0; tries < maxAttempts; {
		view, now := a.view(), a.cfg.Now()
		if done, err := repeated(ctx, view, req.GetRequestId(), digest); done || err != nil {
			return err
		}
		write, err := plan(ctx, view, now)
		if err != nil || write == nil && req.GetRequestId() == "" {
			if fresh {
				return a.withEvent(ctx, err, now)
			}
			if err := verify(); err != nil {
				return err
			}
			continue
		}
		if write == nil {
			write = &fleetv1.Write{}
		}
		cmd := &fleetv1.Command{
			Time: timestamppb.New(now), Caller: caller(ctx).Name,
			RequestId: req.GetRequestId(), RequestScope: requestScope(ctx, req.GetRequestId()), RequestDigest: digest,
			Op: &fleetv1.Command_Write{Write: write},
		}
		cmd.Introduced = state.Introduced(cmd)
		result, err := a.cfg.Log.Propose(ctx, cmd)
		if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
			return fmt.Errorf("%w: %w", raftstore.ErrUnknown, err)
		}
		if err != nil {
			return err
		}
		if len(result.Rejections) == 0 {
			return nil
		}
		tries++
		if last = result.Rejections[0]; !again(last.Reason) {
			return rejected(last)
		}
	}
	return refuse(codes.Aborted, "others keep changing it (%s): nothing was written, try again", last.Detail)
}

// withEvent proposes the event of a refusal that has one, and answers the refusal.
func (a *API) withEvent(ctx context.Context, refusal error, now time.Time) error {
	var e *Error
	if !errors.As(refusal, &e) || e.event == nil {
		return refusal
	}
	cmd := &fleetv1.Command{Time: timestamppb.New(now), Caller: caller(ctx).Name,
		Op: &fleetv1.Command_Write{Write: &fleetv1.Write{Events: []*fleetv1.Event{e.event}}}}
	cmd.Introduced = state.Introduced(cmd)
	if _, err := a.cfg.Log.Propose(ctx, cmd); err != nil {
		a.cfg.Logger.Warn("event of a refusal is lost", "reason", e.event.GetReason(), "refusal", e.Msg, "error", err)
	}
	return refusal
}

// begin checks a mutation's request ID and answers the request's digest; nil without an ID, for then nobody asks for it.
func begin(req request) (digest []byte, err error) {
	if req.GetRequestId() == "" {
		return nil, nil
	}
	if n := len(req.GetRequestId()); n > maxRequestID {
		return nil, invalid("request_id", "has %d characters, at most %d are allowed", n, maxRequestID)
	}
	return requestDigest(req)
}

// again says whether a rejection may go away when the store is looked at anew.
func again(r state.RejectReason) bool {
	return r == state.RejectRevision || r == state.RejectExists || r == state.RejectNotFound
}

func rejected(r state.Rejection) error {
	return refuse(codes.FailedPrecondition, "%s", r.Detail)
}
