package auth

import (
	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

// methods are all of the API by their full names, with what each asks of its caller.
func methods() map[string]access {
	all := map[string]access{
		fleetv1.JoinService_Join_FullMethodName:  {}, // the secret is in the request
		fleetv1.JoinService_Renew_FullMethodName: {role: roleMember},
	}
	for _, roles := range []map[string][]string{fleetMethods(), projectMethods()} {
		for role, list := range roles {
			for _, method := range list {
				all[method] = access{role: role}
			}
		}
	}
	for path, list := range projectPaths() {
		for _, method := range list {
			all[method] = access{role: all[method].role, project: path}
		}
	}
	return all
}

// fleetMethods are those of who runs the fleet, and of its members, by the least role that may call them.
func fleetMethods() map[string][]string {
	return map[string][]string{
		fleetv1.RoleAdmin: {
			fleetv1.BackupService_Backup_FullMethodName, fleetv1.BackupService_Restore_FullMethodName,
			fleetv1.BackupService_ConfirmRemovals_FullMethodName,
			fleetv1.ClusterService_RemoveMember_FullMethodName, fleetv1.ClusterService_TransferLeader_FullMethodName,
			fleetv1.ClusterService_RotateGossipKey_FullMethodName,
			fleetv1.IdentityService_CreateJoinToken_FullMethodName, fleetv1.IdentityService_ListJoinTokens_FullMethodName,
			fleetv1.IdentityService_RevokeJoinToken_FullMethodName, fleetv1.IdentityService_RevokeNode_FullMethodName,
			fleetv1.IdentityService_RotateKey_FullMethodName, fleetv1.IdentityService_RotateCA_FullMethodName,
			fleetv1.QuotaService_SetQuota_FullMethodName, fleetv1.QuotaService_DeleteQuota_FullMethodName,
			fleetv1.TenantService_CreateAccount_FullMethodName, fleetv1.TenantService_ListAccounts_FullMethodName,
			fleetv1.TenantService_DeleteAccount_FullMethodName, fleetv1.TenantService_CreateProject_FullMethodName,
			fleetv1.TenantService_DeleteProject_FullMethodName, fleetv1.TenantService_CreateUser_FullMethodName,
			fleetv1.TenantService_ListUsers_FullMethodName, fleetv1.TenantService_DeleteUser_FullMethodName,
			fleetv1.CredentialService_CreateToken_FullMethodName, fleetv1.CredentialService_ListTokens_FullMethodName,
			fleetv1.CredentialService_RevokeToken_FullMethodName, fleetv1.CredentialService_CreateKey_FullMethodName,
			fleetv1.CredentialService_ListKeys_FullMethodName, fleetv1.CredentialService_RevokeKey_FullMethodName,
		},
		fleetv1.RoleOperator: {
			fleetv1.BackupService_ListRemovals_FullMethodName,
			fleetv1.ClusterService_GetClusterStatus_FullMethodName, fleetv1.ClusterService_Defrag_FullMethodName,
			fleetv1.ClusterService_ListMembers_FullMethodName,
			fleetv1.IdentityService_ListCertificates_FullMethodName,
			fleetv1.DeviceService_ListDevices_FullMethodName, fleetv1.DeviceService_GetDevice_FullMethodName,
			fleetv1.DeviceService_SetDeviceCordon_FullMethodName,
			fleetv1.FlavorService_CreateFlavor_FullMethodName, fleetv1.FlavorService_DeleteFlavor_FullMethodName,
			fleetv1.NodeService_ListNodes_FullMethodName, fleetv1.NodeService_GetNode_FullMethodName,
			fleetv1.NodeService_SetNodeCordon_FullMethodName, fleetv1.NodeService_DrainNode_FullMethodName,
			fleetv1.NodeService_GetDrain_FullMethodName,
			fleetv1.PoolService_CreatePool_FullMethodName, fleetv1.PoolService_DeletePool_FullMethodName,
		},
		fleetv1.RoleAgent: {
			fleetv1.AgentService_Session_FullMethodName, fleetv1.AgentService_Relay_FullMethodName,
			fleetv1.TaskService_ExchangeTask_FullMethodName,
		},
		fleetv1.RoleScheduler: {
			fleetv1.PeerService_Probe_FullMethodName, fleetv1.PeerService_AddMember_FullMethodName, fleetv1.PeerService_NoteUses_FullMethodName,
			fleetv1.PeerService_CountLookups_FullMethodName,
		},
	}
}

// projectMethods are those of tenants, likewise.
func projectMethods() map[string][]string {
	return map[string][]string{
		fleetv1.RoleDeployer: {
			fleetv1.InstanceService_ExecInstance_FullMethodName,
			fleetv1.ModelService_CreateModel_FullMethodName, fleetv1.ModelService_DeleteModel_FullMethodName,
			fleetv1.ServiceService_DeployService_FullMethodName, fleetv1.ServiceService_ScaleService_FullMethodName,
			fleetv1.ServiceService_StartService_FullMethodName, fleetv1.ServiceService_StopService_FullMethodName,
			fleetv1.ServiceService_RestartService_FullMethodName, fleetv1.ServiceService_DeleteService_FullMethodName,
			fleetv1.ServiceService_PlanService_FullMethodName,
			fleetv1.CredentialService_CreateApp_FullMethodName, fleetv1.CredentialService_BindApp_FullMethodName,
			fleetv1.CredentialService_DeleteApp_FullMethodName, fleetv1.CredentialService_CreateAppCode_FullMethodName,
			fleetv1.CredentialService_RevokeAppCode_FullMethodName,
			fleetv1.JobService_SubmitJob_FullMethodName, fleetv1.JobService_StartJob_FullMethodName, fleetv1.JobService_StopJob_FullMethodName,
			fleetv1.JobService_RetryJob_FullMethodName, fleetv1.JobService_DeleteJob_FullMethodName,
			fleetv1.StorageKeyService_SetStorageKey_FullMethodName, fleetv1.StorageKeyService_DeleteStorageKey_FullMethodName,
		},
		fleetv1.RoleViewer: {
			fleetv1.EventService_ListEvents_FullMethodName, fleetv1.EventService_WatchEvents_FullMethodName,
			fleetv1.FlavorService_ListFlavors_FullMethodName, fleetv1.FlavorService_GetFlavor_FullMethodName,
			fleetv1.PoolService_ListPools_FullMethodName, fleetv1.PoolService_GetPool_FullMethodName,
			fleetv1.ServiceService_ListEndpoints_FullMethodName, fleetv1.InstanceService_ListInstances_FullMethodName, fleetv1.InstanceService_GetInstance_FullMethodName,
			fleetv1.InstanceService_GetInstanceLogs_FullMethodName,
			fleetv1.ModelService_ListModels_FullMethodName, fleetv1.ModelService_GetModel_FullMethodName,
			fleetv1.QuotaService_ListQuotas_FullMethodName, fleetv1.QuotaService_GetQuota_FullMethodName,
			fleetv1.ServiceService_ListServices_FullMethodName, fleetv1.ServiceService_GetService_FullMethodName,
			fleetv1.ServiceService_WatchService_FullMethodName,
			fleetv1.TenantService_ListProjects_FullMethodName,
			fleetv1.CredentialService_ListApps_FullMethodName,
			fleetv1.JobService_ListJobs_FullMethodName, fleetv1.JobService_GetJob_FullMethodName, fleetv1.JobService_WatchJob_FullMethodName,
			fleetv1.JobService_ListJobErrors_FullMethodName, fleetv1.JobService_GetJobMapping_FullMethodName,
			fleetv1.StorageKeyService_ListStorageKeys_FullMethodName,
		},
		fleetv1.RoleLookup: { // which are counted
			fleetv1.LookupService_Get_FullMethodName, fleetv1.LookupService_Watch_FullMethodName,
		},
	}
}

// projectPaths are the methods that are about what is in a project, by where their request names it.
func projectPaths() map[string][]string {
	return map[string][]string{
		"project": {
			fleetv1.InstanceService_ExecInstance_FullMethodName, fleetv1.ModelService_DeleteModel_FullMethodName,
			fleetv1.ServiceService_ScaleService_FullMethodName, fleetv1.ServiceService_StartService_FullMethodName,
			fleetv1.ServiceService_StopService_FullMethodName, fleetv1.ServiceService_RestartService_FullMethodName,
			fleetv1.ServiceService_DeleteService_FullMethodName, fleetv1.CredentialService_BindApp_FullMethodName,
			fleetv1.CredentialService_DeleteApp_FullMethodName, fleetv1.CredentialService_CreateAppCode_FullMethodName,
			fleetv1.CredentialService_RevokeAppCode_FullMethodName, fleetv1.InstanceService_ListInstances_FullMethodName,
			fleetv1.InstanceService_GetInstance_FullMethodName, fleetv1.InstanceService_GetInstanceLogs_FullMethodName,
			fleetv1.ModelService_ListModels_FullMethodName, fleetv1.ModelService_GetModel_FullMethodName,
			fleetv1.QuotaService_GetQuota_FullMethodName, fleetv1.ServiceService_ListServices_FullMethodName,
			fleetv1.ServiceService_GetService_FullMethodName, fleetv1.ServiceService_WatchService_FullMethodName,
			fleetv1.CredentialService_ListApps_FullMethodName, fleetv1.ServiceService_ListEndpoints_FullMethodName,
			fleetv1.LookupService_Get_FullMethodName, fleetv1.LookupService_Watch_FullMethodName,
			fleetv1.JobService_ListJobs_FullMethodName, fleetv1.JobService_GetJob_FullMethodName, fleetv1.JobService_WatchJob_FullMethodName,
			fleetv1.JobService_StartJob_FullMethodName, fleetv1.JobService_StopJob_FullMethodName, fleetv1.JobService_RetryJob_FullMethodName,
			fleetv1.JobService_DeleteJob_FullMethodName, fleetv1.JobService_ListJobErrors_FullMethodName,
			fleetv1.JobService_GetJobMapping_FullMethodName, fleetv1.StorageKeyService_SetStorageKey_FullMethodName,
			fleetv1.StorageKeyService_ListStorageKeys_FullMethodName, fleetv1.StorageKeyService_DeleteStorageKey_FullMethodName,
		},
		"job.meta.project": {
			fleetv1.JobService_SubmitJob_FullMethodName,
		},
		"model.meta.project": {
			fleetv1.ModelService_CreateModel_FullMethodName,
		},
		"service.meta.project": {
			fleetv1.ServiceService_DeployService_FullMethodName, fleetv1.ServiceService_PlanService_FullMethodName,
		},
		"app.meta.project": {
			fleetv1.CredentialService_CreateApp_FullMethodName,
		},
		"filter.project": {
			fleetv1.EventService_ListEvents_FullMethodName, fleetv1.EventService_WatchEvents_FullMethodName,
		},
	}
}
