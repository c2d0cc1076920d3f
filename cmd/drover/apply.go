package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/drover-fleet/drover/client"
	"github.com/drover-fleet/drover/cmd/drover/manifest"
	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

// What apply did with an object.
const (
	created   = "created"
	changed   = "changed"
	unchanged = "unchanged"
)

func (a *app) applyCommand() *cobra.Command {
	var files []string
	var w waitFlags
	cmd := &cobra.Command{
		Use: "apply -f FILE…", Short: "Create or change what manifests declare",
		Long: "Create or change what manifests declare. A FILE is a YAML file of one or more documents, a directory of them, or -\n" +
			"for standard input. All files are read and checked before anything is sent; then flavors, pools, quotas, models,\n" +
			"services and jobs are made in this order. Applying the same files again changes nothing.",
		Example: "  drover apply -f examples/iris/ --wait\n  drover apply -f flavor.yaml -f service.yaml\n  cat all.yaml | drover apply -f -",
		Args:    exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			docs, err := a.loadManifests(cmd, files)
			if err != nil {
				return err
			}
			return a.apply(cmd.Context(), docs, w)
		},
	}
	a.manifestFlag(cmd, &files)
	w.register(cmd, "every service to run and every job to end")
	return a.online(cmd)
}

func (a *app) deleteCommand() *cobra.Command {
	var files []string
	var w waitFlags
	cmd := &cobra.Command{
		Use: "delete -f FILE…", Short: "Delete what manifests declare",
		Long: "Delete what manifests declare, jobs and services first and flavors last. What is gone already is passed over. A\n" +
			"model without a version in its manifest is deleted with all its versions. When more than jobs and services is to\n" +
			"be deleted, each of those is waited for, since it uses the others. The output of a job stays.",
		Example: "  drover delete -f examples/iris/ --wait",
		Args:    exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			docs, err := a.loadManifests(cmd, files)
			if err != nil {
				return err
			}
			return a.deleteAll(cmd.Context(), docs, w)
		},
	}
	a.manifestFlag(cmd, &files)
	w.register(cmd, "every job and every service to be gone")
	return a.online(cmd)
}

func (a *app) manifestFlag(cmd *cobra.Command, files *[]string) {
	cmd.Flags().StringArrayVarP(files, "file", "f", nil, "manifest `FILE`, directory, or - for standard input; may be given several times")
	must(cmd.MarkFlagFilename("file", "yaml", "yml"))
}

func (a *app) loadManifests(cmd *cobra.Command, files []string) ([]manifest.Document, error) {
	if len(files) == 0 {
		return nil, usagef(cmd, "-f FILE is missing")
	}
	return manifest.Load(files, a.in)
}

func (a *app) apply(ctx context.Context, docs []manifest.Document, w waitFlags) error {
	cl, err := a.client()
	if err != nil {
		return err
	}
	var lasting []manifest.Object
	for i, d := range docs {
		obj, did, err := a.applyObject(ctx, cl, d)
		if err != nil {
			if left := len(docs) - i - 1; left > 0 {
				fmt.Fprintf(a.err, "drover: %d of %d objects not applied yet when this one failed\n", left, len(docs))
			}
			return about(d.Where()+": "+d.Name(), err)
		}
		d.Object = obj
		fmt.Fprintf(a.out, "%s %s\n", d.Name(), did)
		switch o := obj.(type) {
		case *fleetv1.Service:
			fmt.Fprintf(a.out, "  %s\n", a.autoStopText(o))
			lasting = append(lasting, o)
		case *fleetv1.Job:
			lasting = append(lasting, o)
		}
	}
	if !w.wait {
		return nil
	}
	for _, obj := range lasting {
		if err := a.waitObject(ctx, cl, obj, w, running, jobEnded); err != nil {
			return err
		}
	}
	return nil
}

// waitObject waits for what takes time; other objects are as asked at once.
func (a *app) waitObject(ctx context.Context, cl *client.Client, obj manifest.Object, w waitFlags, service goal, job jobGoal) error {
	switch o := obj.(type) {
	case *fleetv1.Service:
		return a.waitService(ctx, cl, o, service, w)
	case *fleetv1.Job:
		return a.waitJob(ctx, cl, o, job, w)
	}
	return nil
}

// applyObject makes one object unless it stands as declared already, and answers what stands now.
func (a *app) applyObject(ctx context.Context, cl *client.Client, d manifest.Document) (manifest.Object, string, error) {
	if s, ok := d.Object.(*fleetv1.Service); ok {
		resp, err := write(ctx, a, cl.Services.DeployService, &fleetv1.DeployServiceRequest{Service: s})
		switch {
		case err != nil:
			return nil, "", err
		case !resp.GetChanged():
			return resp.GetService(), unchanged, nil
		case resp.GetService().GetMeta().GetGeneration() > 1:
			return resp.GetService(), changed, nil
		}
		return resp.GetService(), created, nil
	}
	if j, ok := d.Object.(*fleetv1.Job); ok {
		resp, err := a.submitJob(ctx, cl, j, false)
		return resp.GetJob(), submitted(resp), err
	}
	if q, ok := d.Object.(*fleetv1.Quota); ok {
		return a.applyQuota(ctx, cl, q)
	}
	stored, err := a.getObject(ctx, cl, d.Object)
	if err == nil {
		path := difference(d.Object.ProtoReflect(), stored.ProtoReflect())
		model, isModel := d.Object.(*fleetv1.Model)
		switch {
		case path == "":
			return stored, unchanged, nil
		case !isModel:
			return nil, "", fmt.Errorf("exists with another %s, and a %s can't be changed: give it another name, or delete it first", path, d.Kind)
		case model.GetSpec().GetVersion() != "":
			return nil, "", fmt.Errorf("exists with another %s, and a version can't be changed: give it another version", path)
		}
	} else if status.Code(err) != codes.NotFound {
		return nil, "", err
	}
	obj, err := a.createObject(ctx, cl, d.Object)
	return obj, created, err
}

func (a *app) getObject(ctx context.Context, cl *client.Client, obj manifest.Object) (manifest.Object, error) {
	name := obj.GetMeta().GetName()
	switch o := obj.(type) {
	case *fleetv1.Flavor:
		resp, err := read(ctx, a, cl.Flavors.GetFlavor, &fleetv1.GetFlavorRequest{Name: name})
		return resp.GetFlavor(), err
	case *fleetv1.Pool:
		resp, err := read(ctx, a, cl.Pools.GetPool, &fleetv1.GetPoolRequest{Name: name})
		return resp.GetPool(), err
	case *fleetv1.Model:
		resp, err := read(ctx, a, cl.Models.GetModel,
			&fleetv1.GetModelRequest{Project: o.GetMeta().GetProject(), Name: name, Version: o.GetSpec().GetVersion()})
		return resp.GetModel(), err
	}
	return nil, fmt.Errorf("objects of type %T can't be read", obj)
}

func (a *app) createObject(ctx context.Context, cl *client.Client, obj manifest.Object) (manifest.Object, error) {
	switch o := obj.(type) {
	case *fleetv1.Flavor:
		resp, err := write(ctx, a, cl.Flavors.CreateFlavor, &fleetv1.CreateFlavorRequest{Flavor: o})
		return resp.GetFlavor(), err
	case *fleetv1.Pool:
		resp, err := write(ctx, a, cl.Pools.CreatePool, &fleetv1.CreatePoolRequest{Pool: o})
		return resp.GetPool(), err
	case *fleetv1.Model:
		resp, err := write(ctx, a, cl.Models.CreateModel, &fleetv1.CreateModelRequest{Model: o})
		return resp.GetModel(), err
	}
	return nil, fmt.Errorf("objects of type %T can't be created", obj)
}

// create is the create command of a noun: one object from flags.
func (a *app) create(ctx context.Context, d manifest.Document) error {
	cl, err := a.client()
	if err != nil {
		return err
	}
	obj, err := a.createObject(ctx, cl, d.Object)
	if err != nil {
		return err
	}
	d.Object = obj
	return a.print(obj, func() error {
		_, err := fmt.Fprintf(a.out, "%s created\n", d.Name())
		return err
	})
}

func (a *app) deleteAll(ctx context.Context, docs []manifest.Document, w waitFlags) error {
	cl, err := a.client()
	if err != nil {
		return err
	}
	slices.Reverse(docs)
	for _, d := range docs {
		err := a.deleteObject(ctx, cl, d)
		if status.Code(err) == codes.NotFound && !errors.As(err, new(*unknownError)) {
			fmt.Fprintf(a.out, "%s not found\n", d.Name())
			continue
		}
		if err != nil {
			return about(d.Where()+": "+d.Name(), err)
		}
		if !takesTime(d) || (!w.wait && takesTime(docs[len(docs)-1])) {
			fmt.Fprintf(a.out, "%s deleted\n", d.Name())
			continue
		}
		fmt.Fprintf(a.out, "%s is being deleted\n", d.Name())
		if err := a.waitObject(ctx, cl, d.Object, w, gone, jobGone); err != nil {
			return err
		}
	}
	return nil
}

// takesTime says of an object that it is there for a while after it was deleted.
func takesTime(d manifest.Document) bool {
	return d.Kind == fleetv1.KindService || d.Kind == fleetv1.KindJob
}

func (a *app) deleteObject(ctx context.Context, cl *client.Client, d manifest.Document) error {
	name := d.Object.GetMeta().GetName()
	project := d.Object.GetMeta().GetProject()
	var err error
	switch o := d.Object.(type) {
	case *fleetv1.Flavor:
		_, err = write(ctx, a, cl.Flavors.DeleteFlavor, &fleetv1.DeleteFlavorRequest{Name: name})
	case *fleetv1.Pool:
		_, err = write(ctx, a, cl.Pools.DeletePool, &fleetv1.DeletePoolRequest{Name: name})
	case *fleetv1.Quota:
		_, err = write(ctx, a, cl.Quotas.DeleteQuota, &fleetv1.DeleteQuotaRequest{Project: name})
	case *fleetv1.Model:
		_, err = write(ctx, a, cl.Models.DeleteModel,
			&fleetv1.DeleteModelRequest{Project: project, Name: name, Version: o.GetSpec().GetVersion()})
	case *fleetv1.Service:
		_, err = write(ctx, a, cl.Services.DeleteService, &fleetv1.DeleteServiceRequest{Project: project, Name: name})
	case *fleetv1.Job:
		_, err = write(ctx, a, cl.Jobs.DeleteJob, &fleetv1.DeleteJobRequest{Project: project, Name: name})
	}
	return err
}

// difference answers the path of the first field that declared sets and stored has otherwise, or "".
// What declared leaves out is the scheduler's to fill in; lists and maps must be the same.
func difference(declared, stored protoreflect.Message) string {
	var path []string
	declared.Range(func(fd protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		name := string(fd.Name())
		switch {
		case fd.IsList():
			path = differentList(fd, v.List(), stored.Get(fd).List())
		case fd.IsMap():
			if !v.Equal(stored.Get(fd)) {
				path = []string{name}
			}
		case fd.Message() != nil && fd.Message().FullName().Parent() == "fleet.v1":
			if sub := difference(v.Message(), stored.Get(fd).Message()); sub != "" {
				path = []string{name, sub}
			}
		case fd.Message() != nil:
			if !proto.Equal(v.Message().Interface(), stored.Get(fd).Message().Interface()) {
				path = []string{name}
			}
		case !v.Equal(stored.Get(fd)) && !ignoredMeta(fd):
			path = []string{name}
		}
		return path == nil
	})
	return strings.Join(path, ".")
}

// ignoredMeta: what the scheduler sets in meta is ignored when a caller sends it.
func ignoredMeta(fd protoreflect.FieldDescriptor) bool {
	if fd.Parent().Name() != "Meta" {
		return false
	}
	return fd.Name() != "name" && fd.Name() != "project"
}

func differentList(fd protoreflect.FieldDescriptor, declared, stored protoreflect.List) []string {
	name := string(fd.Name())
	if declared.Len() != stored.Len() {
		return []string{name}
	}
	for i := range declared.Len() {
		at := fmt.Sprintf("%s[%d]", name, i)
		if fd.Message() == nil {
			if !declared.Get(i).Equal(stored.Get(i)) {
				return []string{at}
			}
		} else if sub := difference(declared.Get(i).Message(), stored.Get(i).Message()); sub != "" {
			return []string{at, sub}
		}
	}
	return nil
}
