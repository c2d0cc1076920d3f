package state

import (
	"fmt"

	"google.golang.org/protobuf/proto"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

// ObjectOf wraps one of the stored messages (Cluster, Token, Node, Flavor, Pool, Quota, Model,
// Service, Instance, JoinToken, Certificate, Scheduler, Account, Project, User, Key, App, Job, JobLedger, StorageKey).
// Any other message gives an Object without a kind, which Apply refuses.
func ObjectOf(m proto.Message) *fleetv1.Object {
	switch m := m.(type) {
	case *fleetv1.Cluster:
		return &fleetv1.Object{Kind: &fleetv1.Object_Cluster{Cluster: m}}
	case *fleetv1.Token:
		return &fleetv1.Object{Kind: &fleetv1.Object_Token{Token: m}}
	case *fleetv1.Node:
		return &fleetv1.Object{Kind: &fleetv1.Object_Node{Node: m}}
	case *fleetv1.Flavor:
		return &fleetv1.Object{Kind: &fleetv1.Object_Flavor{Flavor: m}}
	case *fleetv1.Pool:
		return &fleetv1.Object{Kind: &fleetv1.Object_Pool{Pool: m}}
	case *fleetv1.Quota:
		return &fleetv1.Object{Kind: &fleetv1.Object_Quota{Quota: m}}
	case *fleetv1.Model:
		return &fleetv1.Object{Kind: &fleetv1.Object_Model{Model: m}}
	case *fleetv1.Service:
		return &fleetv1.Object{Kind: &fleetv1.Object_Service{Service: m}}
	case *fleetv1.Instance:
		return &fleetv1.Object{Kind: &fleetv1.Object_Instance{Instance: m}}
	case *fleetv1.JoinToken:
		return &fleetv1.Object{Kind: &fleetv1.Object_JoinToken{JoinToken: m}}
	case *fleetv1.Certificate:
		return &fleetv1.Object{Kind: &fleetv1.Object_Certificate{Certificate: m}}
	case *fleetv1.Scheduler:
		return &fleetv1.Object{Kind: &fleetv1.Object_Scheduler{Scheduler: m}}
	case *fleetv1.Account:
		return &fleetv1.Object{Kind: &fleetv1.Object_Account{Account: m}}
	case *fleetv1.Project:
		return &fleetv1.Object{Kind: &fleetv1.Object_Project{Project: m}}
	case *fleetv1.User:
		return &fleetv1.Object{Kind: &fleetv1.Object_User{User: m}}
	case *fleetv1.Key:
		return &fleetv1.Object{Kind: &fleetv1.Object_Key{Key: m}}
	case *fleetv1.App:
		return &fleetv1.Object{Kind: &fleetv1.Object_App{App: m}}
	case *fleetv1.Job:
		return &fleetv1.Object{Kind: &fleetv1.Object_Job{Job: m}}
	case *fleetv1.JobLedger:
		return &fleetv1.Object{Kind: &fleetv1.Object_JobLedger{JobLedger: m}}
	case *fleetv1.StorageKey:
		return &fleetv1.Object{Kind: &fleetv1.Object_StorageKey{StorageKey: m}}
	}
	return &fleetv1.Object{}
}

// Put is the mutation that stores m when the stored object's revision is expect, or, with 0, when
// there is none.
func Put(expect uint64, m proto.Message) *fleetv1.Mutation {
	return &fleetv1.Mutation{ExpectRevision: expect, Change: &fleetv1.Mutation_Put{Put: ObjectOf(m)}}
}

// Delete is the mutation that deletes the object when its revision is expect.
func Delete(expect uint64, key Key) *fleetv1.Mutation {
	return &fleetv1.Mutation{
		ExpectRevision: expect,
		Change:         &fleetv1.Mutation_Delete{Delete: &fleetv1.ObjectRef{Kind: key.Kind, Id: key.Key}},
	}
}

// ServiceKey is the store key of a service.
func ServiceKey(project, name string) Key {
	return Key{fleetv1.KindService, project + "/" + name}
}

// ModelKey is the store key of one version of a model.
func ModelKey(project, name, version string) Key {
	return Key{fleetv1.KindModel, project + "/" + name + "@" + version}
}

// InstanceKey is the store key of an instance.
func InstanceKey(id string) Key { return Key{fleetv1.KindInstance, id} }

// CertificateKey is the store key of the certificate of a node or scheduler.
func CertificateKey(role, name string) Key { return Key{fleetv1.KindCertificate, role + "/" + name} }

// SchedulerKey is the store key of a scheduler.
func SchedulerKey(id string) Key { return Key{fleetv1.KindScheduler, id} }

// AppKey is the store key of an app.
func AppKey(project, name string) Key { return Key{fleetv1.KindApp, project + "/" + name} }

// JobKey is the store key of a job.
func JobKey(project, name string) Key { return Key{fleetv1.KindJob, project + "/" + name} }

// JobLedgerKey is the store key of the ledger of the job with the ID.
func JobLedgerKey(id string) Key { return Key{fleetv1.KindJobLedger, id} }

// StorageKeyKey is the store key of the access key that a project has for a scheme of URLs.
func StorageKeyKey(project, scheme string) Key {
	return Key{fleetv1.KindStorageKey, project + "/" + scheme}
}

// KeyOf is the object's kind and store key; both are empty when the object has no kind.
func KeyOf(o *fleetv1.Object) Key {
	m := metaOf(o)
	switch k := o.GetKind().(type) {
	case *fleetv1.Object_Cluster:
		return Key{fleetv1.KindCluster, m.GetName()}
	case *fleetv1.Object_Token:
		return Key{fleetv1.KindToken, m.GetName()}
	case *fleetv1.Object_Node:
		return Key{fleetv1.KindNode, m.GetName()}
	case *fleetv1.Object_Flavor:
		return Key{fleetv1.KindFlavor, m.GetName()}
	case *fleetv1.Object_Pool:
		return Key{fleetv1.KindPool, m.GetName()}
	case *fleetv1.Object_Quota:
		return Key{fleetv1.KindQuota, m.GetName()}
	case *fleetv1.Object_Model:
		return ModelKey(m.GetProject(), m.GetName(), k.Model.GetSpec().GetVersion())
	case *fleetv1.Object_Service:
		return ServiceKey(m.GetProject(), m.GetName())
	case *fleetv1.Object_Instance:
		return InstanceKey(m.GetId())
	case *fleetv1.Object_JoinToken:
		return Key{fleetv1.KindJoinToken, m.GetName()}
	case *fleetv1.Object_Certificate:
		return Key{fleetv1.KindCertificate, m.GetName()}
	case *fleetv1.Object_Scheduler:
		return SchedulerKey(m.GetId())
	case *fleetv1.Object_Account:
		return Key{fleetv1.KindAccount, m.GetName()}
	case *fleetv1.Object_Project:
		return Key{fleetv1.KindProject, m.GetName()}
	case *fleetv1.Object_User:
		return Key{fleetv1.KindUser, m.GetName()}
	case *fleetv1.Object_Key:
		return Key{fleetv1.KindKey, m.GetName()}
	case *fleetv1.Object_App:
		return AppKey(m.GetProject(), m.GetName())
	case *fleetv1.Object_Job:
		return JobKey(m.GetProject(), m.GetName())
	case *fleetv1.Object_JobLedger:
		return JobLedgerKey(m.GetId())
	case *fleetv1.Object_StorageKey:
		return StorageKeyKey(m.GetProject(), m.GetName())
	}
	return Key{}
}

// metaOf is nil when the object has no kind or no meta.
func metaOf(o *fleetv1.Object) *fleetv1.Meta {
	switch k := o.GetKind().(type) {
	case *fleetv1.Object_Cluster:
		return k.Cluster.GetMeta()
	case *fleetv1.Object_Token:
		return k.Token.GetMeta()
	case *fleetv1.Object_Node:
		return k.Node.GetMeta()
	case *fleetv1.Object_Flavor:
		return k.Flavor.GetMeta()
	case *fleetv1.Object_Pool:
		return k.Pool.GetMeta()
	case *fleetv1.Object_Quota:
		return k.Quota.GetMeta()
	case *fleetv1.Object_Model:
		return k.Model.GetMeta()
	case *fleetv1.Object_Service:
		return k.Service.GetMeta()
	case *fleetv1.Object_Instance:
		return k.Instance.GetMeta()
	case *fleetv1.Object_JoinToken:
		return k.JoinToken.GetMeta()
	case *fleetv1.Object_Certificate:
		return k.Certificate.GetMeta()
	case *fleetv1.Object_Scheduler:
		return k.Scheduler.GetMeta()
	case *fleetv1.Object_Account:
		return k.Account.GetMeta()
	case *fleetv1.Object_Project:
		return k.Project.GetMeta()
	case *fleetv1.Object_User:
		return k.User.GetMeta()
	case *fleetv1.Object_Key:
		return k.Key.GetMeta()
	case *fleetv1.Object_App:
		return k.App.GetMeta()
	case *fleetv1.Object_Job:
		return k.Job.GetMeta()
	case *fleetv1.Object_JobLedger:
		return k.JobLedger.GetMeta()
	case *fleetv1.Object_StorageKey:
		return k.StorageKey.GetMeta()
	}
	return nil
}

// checkObject finds what makes an object impossible to store.
func checkObject(o *fleetv1.Object) error {
	meta := metaOf(o)
	switch {
	case o.GetKind() == nil:
		return fmt.Errorf("object without a kind (made by a newer version?)")
	case meta == nil:
		return fmt.Errorf("%s without meta", KeyOf(o).Kind)
	case KeyOf(o).Kind != fleetv1.KindInstance && meta.GetName() == "":
		return fmt.Errorf("%s without a name", KeyOf(o).Kind)
	case KeyOf(o).Kind == fleetv1.KindInstance && meta.GetId() == "":
		return fmt.Errorf("instance without an ID")
	case KeyOf(o).Kind == fleetv1.KindScheduler && meta.GetId() == "":
		return fmt.Errorf("scheduler %s without an ID", meta.GetName())
	}
	return nil
}

func (k Key) String() string { return k.Kind + " " + k.Key }
