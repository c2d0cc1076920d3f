package forward

import (
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

// method is one of the operators' API.
type method struct {
	write   bool // has a request ID
	stale   bool // may be answered by any scheduler
	up      bool // the caller sends a stream
	down    bool // the caller receives one
	request func() proto.Message
	answer  func() proto.Message
}

// others are the services that every scheduler answers itself.
func others() []protoreflect.FullName {
	return []protoreflect.FullName{
		"fleet.v1.AgentService", "fleet.v1.LocalService", "fleet.v1.PeerService", "fleet.v1.JoinService", "fleet.v1.LookupService",
		"fleet.v1.TaskService",
	}
}

// methods finds every method that may be passed on, by its full name in gRPC.
func methods() map[string]method {
	all := map[string]method{}
	protoregistry.GlobalFiles.RangeFilesByPackage(fleetv1.File_fleet_v1_cluster_proto.Package(), func(f protoreflect.FileDescriptor) bool {
		for i := range f.Services().Len() {
			s := f.Services().Get(i)
			if slices.Contains(others(), s.FullName()) {
				continue
			}
			for j := range s.Methods().Len() {
				m := s.Methods().Get(j)
				all["/"+string(s.FullName())+"/"+string(m.Name())] = describe(m)
			}
		}
		return true
	})
	return all
}

func describe(m protoreflect.MethodDescriptor) method {
	name := string(m.Name())
	read := slices.ContainsFunc([]string{"Get", "List", "Watch"}, func(p string) bool { return strings.HasPrefix(name, p) })
	return method{
		write: m.Input().Fields().ByName("request_id") != nil,
		stale: read && name != "GetInstanceLogs",
		up:    m.IsStreamingClient(), down: m.IsStreamingServer(),
		request: maker(m.Input()), answer: maker(m.Output()),
	}
}

// maker makes messages of a type, which is linked in: it is one of the API's own.
func maker(d protoreflect.MessageDescriptor) func() proto.Message {
	t, err := protoregistry.GlobalTypes.FindMessageByName(d.FullName())
	if err != nil {
		panic("forward: " + err.Error())
	}
	return func() proto.Message { return t.New().Interface() }
}
