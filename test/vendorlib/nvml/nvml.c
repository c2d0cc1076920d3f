/*
 * A libnvidia-ml.so.1 of a host with eight GPUs like a DGX H100's, for tests of the real loader.
 *
 * The file named by DROVER_FAKE_NVML says how it behaves; it is read again at each call, one line each:
 *
 *   hang|crash|exit CALL K   the K-th call of the function CALL ("*": of any; K 0: each) never returns, faults, exits
 *                            with 127
 *   init RETURN              nvmlInit answers RETURN
 *   handles RETURN           no GPU is given out, RETURN says why
 *   count N                  there are N GPUs (at most 8; the last ones are missing)
 *   lost I                   GPU I fell off the bus
 *   reset I                  GPU I requires a reset
 *   twin I                   GPU I has the UUID of GPU 0
 *   mig I                    GPU I is in MIG mode and has two slices
 *   refuse                   no versioned struct is accepted, as by a driver that knows another version
 *   processes N              GPU 0 has N processes (2 if not said)
 *   idle                     no GPU has a process
 *   endless                  the lists of processes are never long enough, one asks for all there is
 *   links direct|none        NVLinks lead to the other GPUs; there are none (not said: to NVSwitches)
 *   partition                the NVSwitches keep GPUs 0-3 from 4-7
 *   linkdown I L             link L of GPU I is down
 *   event N KIND I CODE GI CI  an event, told once each to listeners, N ascending from 1; KIND is xid, ecc, sbe or
 *                            gone, GI and CI the slice's instances or -1
 *
 * Variants: -DOLD is a driver before MIG, NVSwitch and field values; -DBARE has the necessary functions only;
 * -DBROKEN lacks one of these. Compile against the nvml.h of github.com/NVIDIA/go-nvml.
 */
#define NVML_NO_UNVERSIONED_FUNC_DEFS
#include <nvml.h>

#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define GPUS 8
#define SLICES 2
#define LINKS 18
#define MIB (1024ULL * 1024)

struct nvmlDevice_st { int gpu, slice; }; /* slice -1: the GPU itself */
struct nvmlEventSet_st { unsigned long long types[GPUS]; };

struct event { int n, gpu, gi, ci; long long code; char kind[16]; };

struct control {
	int init, handles, count, twin, lost[GPUS], reset[GPUS], mig[GPUS], refuse, processes, idle, endless, direct, unlinked, partition;
	int down_gpu, down_link, events;
	struct event event[16];
	char fault[8], fault_call[64];
	int fault_k;
};

static struct nvmlDevice_st gpus[GPUS], slices[GPUS][SLICES];
static atomic_int initialised, all_calls;

static struct control control(void)
{
	struct control c = { .count = GPUS, .processes = 2, .down_gpu = -1 };
	const char *path = getenv("DROVER_FAKE_NVML");
	FILE *f = path ? fopen(path, "re") : NULL;
	char line[256];

	while (f && fgets(line, sizeof line, f)) {
		char word[16] = "", arg[64] = "";
		struct event e;
		int i = 0, l = 0, n = sscanf(line, "%15s %63s %d", word, arg, &l);

		if (n < 1)
			continue;
		i = atoi(arg);
		if (!strcmp(word, "hang") || !strcmp(word, "crash") || !strcmp(word, "exit")) {
			strcpy(c.fault, word);
			strcpy(c.fault_call, arg);
			c.fault_k = l;
		} else if (!strcmp(word, "init")) {
			c.init = i;
		} else if (!strcmp(word, "handles")) {
			c.handles = i;
		} else if (!strcmp(word, "count")) {
			c.count = i;
		} else if (!strcmp(word, "lost")) {
			c.lost[i % GPUS] = 1;
		} else if (!strcmp(word, "reset")) {
			c.reset[i % GPUS] = 1;
		} else if (!strcmp(word, "twin")) {
			c.twin = i;
		} else if (!strcmp(word, "mig")) {
			c.mig[i % GPUS] = 1;
		} else if (!strcmp(word, "refuse")) {
			c.refuse = 1;
		} else if (!strcmp(word, "processes")) {
			c.processes = i;
		} else if (!strcmp(word, "idle")) {
			c.idle = 1;
		} else if (!strcmp(word, "endless")) {
			c.endless = 1;
		} else if (!strcmp(word, "links")) {
			c.direct = !strcmp(arg, "direct");
			c.unlinked = !strcmp(arg, "none");
		} else if (!strcmp(word, "partition")) {
			c.partition = 1;
		} else if (!strcmp(word, "linkdown")) {
			c.down_gpu = i;
			c.down_link = l;
		} else if (sscanf(line, "event %d %15s %d %lld %d %d", &e.n, e.kind, &e.gpu, &e.code, &e.gi, &e.ci) == 6 &&
			   c.events < 16) {
			c.event[c.events++] = e;
		} else {
			fprintf(stderr, "fake NVML: %s", line);
			abort();
		}
	}
	if (f)
		fclose(f);
	return c;
}

static struct control enter(const char *call, atomic_int *calls)
{
	struct control c = control();
	int k = atomic_fetch_add(calls, 1) + 1, all = atomic_fetch_add(&all_calls, 1) + 1;

	if (c.fault[0] && ((!strcmp(c.fault_call, "*") && (!c.fault_k || all == c.fault_k)) ||
			   (!strcmp(c.fault_call, call) && (!c.fault_k || k == c.fault_k)))) {
		if (!strcmp(c.fault, "exit"))
			_exit(127);
		if (!strcmp(c.fault, "crash")) {
			signal(SIGSEGV, SIG_DFL);
			raise(SIGSEGV);
		}
		for (;;)
			pause();
	}
	return c;
}

#define ENTER \
	static atomic_int calls; \
	struct control c = enter(__func__, &calls); \
	(void)c

#define ENTER_GPU \
	ENTER; \
	if (!initialised) \
		return NVML_ERROR_UNINITIALIZED; \
	struct nvmlDevice_st *device = handle.handle; \
	if (!device) \
		return NVML_ERROR_INVALID_ARGUMENT; \
	if (c.lost[device->gpu]) \
		return NVML_ERROR_GPU_IS_LOST

#define WHOLE \
	ENTER_GPU; \
	if (device->slice >= 0) \
		return NVML_ERROR_NOT_SUPPORTED

static nvmlReturn_t text(char *to, unsigned int length, const char *from)
{
	if (length <= strlen(from))
		return NVML_ERROR_INSUFFICIENT_SIZE;
	strcpy(to, from);
	return NVML_SUCCESS;
}

nvmlReturn_t nvmlInit_v2(void)
{
	ENTER;
	for (int i = 0; i < GPUS; i++) {
		gpus[i] = (struct nvmlDevice_st){ i, -1 };
		for (int s = 0; s < SLICES; s++)
			slices[i][s] = (struct nvmlDevice_st){ i, s };
	}
	if (!c.init)
		initialised++;
	return c.init;
}

nvmlReturn_t nvmlShutdown(void)
{
	ENTER;
	if (!initialised)
		return NVML_ERROR_UNINITIALIZED;
	initialised--;
	return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetCount_v2(unsigned int *count)
{
	ENTER;
	if (!initialised)
		return NVML_ERROR_UNINITIALIZED;
	*count = c.count;
	return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetHandleByIndex_v2(unsigned int i, nvmlDevice_t *handle)
{
	ENTER;
	if (!initialised)
		return NVML_ERROR_UNINITIALIZED;
	if (c.handles)
		return c.handles;
	if ((int)i >= c.count || i >= GPUS)
		return NVML_ERROR_INVALID_ARGUMENT;
	if (c.lost[i])
		return NVML_ERROR_GPU_IS_LOST;
	handle->handle = &gpus[i];
	return NVML_SUCCESS;
}

#ifndef BROKEN
nvmlReturn_t nvmlDeviceGetUUID(nvmlDevice_t handle, char *uuid, unsigned int length)
{
	char id[64];
	ENTER_GPU;
	if (device->slice < 0)
		snprintf(id, sizeof id, "GPU-00000000-0000-4000-8000-00000000000%d",
			 device->gpu == c.twin ? 0 : device->gpu);
	else
		snprintf(id, sizeof id, "MIG-00000000-0000-4000-8000-0000000000%d%d", device->gpu, device->slice);
	return text(uuid, length, id);
}
#endif

#ifndef BARE

nvmlReturn_t nvmlSystemGetDriverVersion(char *version, unsigned int length)
{
	ENTER;
#ifdef OLD
	return text(version, length, "384.183");
#else
	return text(version, length, "570.124.06");
#endif
}

static const char *const profiles[SLICES] = { "3g.40gb", "1g.10gb" };
static const unsigned long long slice_memory[SLICES] = { 40448 * MIB, 9984 * MIB };

nvmlReturn_t nvmlDeviceGetName(nvmlDevice_t handle, char *name, unsigned int length)
{
	char full[96] = "NVIDIA H100 80GB HBM3";
	ENTER_GPU;
	if (device->slice >= 0)
		snprintf(full, sizeof full, "NVIDIA H100 80GB HBM3 MIG %s", profiles[device->slice]);
	return text(name, length, full);
}

static unsigned long long total_memory(struct nvmlDevice_st *device)
{
	return device->slice < 0 ? 81559 * MIB : slice_memory[device->slice];
}

nvmlReturn_t nvmlDeviceGetMemoryInfo(nvmlDevice_t handle, nvmlMemory_t *memory)
{
	ENTER_GPU;
	memory->total = total_memory(device);
	memory->used = (device->gpu + 2) * 1024 * MIB;
	memory->free = memory->total - memory->used;
	return NVML_SUCCESS;
}

static void bus(int gpu, nvmlPciInfo_t *pci)
{
	static const unsigned int numbers[GPUS] = { 0x1b, 0x43, 0x52, 0x61, 0x9d, 0xc3, 0xd1, 0xdf };

	memset(pci, 0, sizeof *pci);
	pci->bus = numbers[gpu];
	pci->pciDeviceId = 0x233010de;
	snprintf(pci->busId, sizeof pci->busId, "00000000:%02X:00.0", pci->bus);
	snprintf(pci->busIdLegacy, sizeof pci->busIdLegacy, "0000:%02X:00.0", pci->bus);
}

#ifdef OLD
nvmlReturn_t nvmlDeviceGetPciInfo_v2(nvmlDevice_t handle, nvmlPciInfo_t *pci)
#else
nvmlReturn_t nvmlDeviceGetPciInfo_v3(nvmlDevice_t handle, nvmlPciInfo_t *pci)
#endif
{
	ENTER_GPU;
	bus(device->gpu, pci);
	return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetMinorNumber(nvmlDevice_t handle, unsigned int *minor)
{
	WHOLE;
	*minor = GPUS - 1 - device->gpu;
	return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetCudaComputeCapability(nvmlDevice_t handle, int *major, int *minor)
{
	WHOLE;
	*major = 9;
	*minor = 0;
	return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetPersistenceMode(nvmlDevice_t handle, nvmlEnableState_t *mode)
{
	WHOLE;
	if (c.reset[device->gpu])
		return NVML_ERROR_RESET_REQUIRED;
	*mode = device->gpu != 7;
	return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetUtilizationRates(nvmlDevice_t handle, nvmlUtilization_t *rates)
{
	WHOLE;
	if (c.mig[device->gpu])
		return NVML_ERROR_NOT_SUPPORTED;
	rates->gpu = 5 + 10 * device->gpu;
	rates->memory = 3 + device->gpu;
	return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetTemperature(nvmlDevice_t handle, nvmlTemperatureSensors_t sensor, unsigned int *celsius)
{
	WHOLE;
	*celsius = 40 + device->gpu;
	return sensor == NVML_TEMPERATURE_GPU ? NVML_SUCCESS : NVML_ERROR_INVALID_ARGUMENT;
}

nvmlReturn_t nvmlDeviceGetPowerUsage(nvmlDevice_t handle, unsigned int *milliwatts)
{
	WHOLE;
	*milliwatts = 100500 + 1000 * device->gpu;
	return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetClockInfo(nvmlDevice_t handle, nvmlClockType_t type, unsigned int *megahertz)
{
	WHOLE;
	*megahertz = type == NVML_CLOCK_SM ? 1980 : type == NVML_CLOCK_MEM ? 2619 : 1;
	return NVML_SUCCESS;
}

#ifdef OLD
nvmlReturn_t nvmlDeviceGetCurrentClocksThrottleReasons(nvmlDevice_t handle, unsigned long long *reasons)
#else
nvmlReturn_t nvmlDeviceGetCurrentClocksEventReasons(nvmlDevice_t handle, unsigned long long *reasons)
#endif
{
	WHOLE;
	*reasons = device->gpu == 0 ? 0x1 : device->gpu == 1 ? 0x44 : 0;
	return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetTotalEccErrors(nvmlDevice_t handle, nvmlMemoryErrorType_t type, nvmlEccCounterType_t counter,
					 unsigned long long *count)
{
	WHOLE;
	*count = device->gpu + (type == NVML_MEMORY_ERROR_TYPE_UNCORRECTED ? 1000 : 0) +
		 (counter == NVML_AGGREGATE_ECC ? 100 : 0);
	return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetPcieReplayCounter(nvmlDevice_t handle, unsigned int *value)
{
	WHOLE;
	*value = 10 + device->gpu;
	return NVML_SUCCESS;
}

static int has_process(const struct control *c, struct nvmlDevice_st *device, int list, int i)
{
	if (c->idle)
		return 0;
	if (list == 0)
		return i < (device->gpu == 0 ? c->processes : 1);
	return list == 1 && device->gpu == 0 && i == 0;
}

static nvmlReturn_t processes(const struct control *c, struct nvmlDevice_st *device, int list, unsigned int *count, void *infos,
			      size_t size)
{
	unsigned int n = 0;

	if (device->slice > 0)
		return NVML_ERROR_NO_PERMISSION;
	while (has_process(c, device, list, n)) {
		if (n < *count) {
			nvmlProcessInfo_v1_t *p = (void *)((char *)infos + n * size);
			p->pid = 1000 + 100 * device->gpu + n;
			p->usedGpuMemory = n == 1 ? (unsigned long long)NVML_VALUE_NOT_AVAILABLE : (512 + 100 * list) * MIB;
		}
		n++;
	}
	if (c->endless || n > *count) {
		*count = c->endless && list == 1 ? 0xFFFFFFF0u : n;
		return NVML_ERROR_INSUFFICIENT_SIZE;
	}
	*count = n;
	return NVML_SUCCESS;
}

#ifdef OLD
nvmlReturn_t nvmlDeviceGetComputeRunningProcesses(nvmlDevice_t handle, unsigned int *count, nvmlProcessInfo_v1_t *infos)
{
	ENTER_GPU;
	return processes(&c, device, 0, count, infos, sizeof *infos);
}
#else
nvmlReturn_t nvmlDeviceGetComputeRunningProcesses_v3(nvmlDevice_t handle, unsigned int *count, nvmlProcessInfo_t *infos)
{
	ENTER_GPU;
	return processes(&c, device, 0, count, infos, sizeof *infos);
}

nvmlReturn_t nvmlDeviceGetGraphicsRunningProcesses_v3(nvmlDevice_t handle, unsigned int *count, nvmlProcessInfo_t *infos)
{
	ENTER_GPU;
	return processes(&c, device, 1, count, infos, sizeof *infos);
}

nvmlReturn_t nvmlDeviceGetMPSComputeRunningProcesses_v3(nvmlDevice_t handle, unsigned int *count, nvmlProcessInfo_t *infos)
{
	ENTER_GPU;
	return processes(&c, device, 2, count, infos, sizeof *infos);
}
#endif

nvmlReturn_t nvmlEventSetCreate(nvmlEventSet_t *set)
{
	ENTER;
	set->handle = calloc(1, sizeof *set->handle);
	return set->handle ? NVML_SUCCESS : NVML_ERROR_MEMORY;
}

nvmlReturn_t nvmlEventSetFree(nvmlEventSet_t set)
{
	ENTER;
	free(set.handle);
	return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetSupportedEventTypes(nvmlDevice_t handle, unsigned long long *types)
{
	WHOLE;
	*types = nvmlEventTypeXidCriticalError | nvmlEventTypeDoubleBitEccError | nvmlEventTypeSingleBitEccError |
		 nvmlEventTypeGpuUnavailableError;
	return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceRegisterEvents(nvmlDevice_t handle, unsigned long long types, nvmlEventSet_t set)
{
	WHOLE;
	set.handle->types[device->gpu] |= types;
	return NVML_SUCCESS;
}

static unsigned long long event_type(const char *kind)
{
	if (!strcmp(kind, "xid"))
		return nvmlEventTypeXidCriticalError;
	if (!strcmp(kind, "ecc"))
		return nvmlEventTypeDoubleBitEccError;
	if (!strcmp(kind, "sbe"))
		return nvmlEventTypeSingleBitEccError;
	return nvmlEventTypeGpuUnavailableError;
}

#ifdef OLD
nvmlReturn_t nvmlEventSetWait(nvmlEventSet_t set, nvmlEventData_t *data, unsigned int timeout)
#else
nvmlReturn_t nvmlEventSetWait_v2(nvmlEventSet_t set, nvmlEventData_t *data, unsigned int timeout)
#endif
{
	static atomic_int delivered;
	const struct timespec pause = { 0, 5 * 1000 * 1000 };
	ENTER;
	for (int waited = 0;; waited += 5) {
		for (int i = 0; i < c.events; i++) {
			const struct event *e = &c.event[i];
			if (e->n <= delivered || e->gpu >= GPUS)
				continue;
			delivered = e->n;
			if (e->gpu >= 0 && !(set.handle->types[e->gpu] & event_type(e->kind)))
				continue;
			data->device.handle = e->gpu < 0 ? NULL : &gpus[e->gpu];
			data->eventType = event_type(e->kind);
			data->eventData = e->code;
#ifndef OLD
			data->gpuInstanceId = e->gi;
			data->computeInstanceId = e->ci;
#endif
			return NVML_SUCCESS;
		}
		for (int i = 0; i < GPUS; i++)
			if (c.lost[i] && set.handle->types[i])
				return NVML_ERROR_GPU_IS_LOST;
		if (waited >= (int)timeout)
			return NVML_ERROR_TIMEOUT;
		nanosleep(&pause, NULL);
		c = control();
	}
}

#ifndef OLD

nvmlReturn_t nvmlSystemGetCudaDriverVersion_v2(int *version)
{
	ENTER;
	*version = 12080;
	return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetMemoryInfo_v2(nvmlDevice_t handle, nvmlMemory_v2_t *memory)
{
	ENTER_GPU;
	if (c.refuse || memory->version != nvmlMemory_v2)
		return NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
	memory->total = total_memory(device);
	memory->reserved = 551 * MIB;
	memory->used = (device->gpu + 1) * 1024 * MIB;
	memory->free = memory->total - memory->reserved - memory->used;
	return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetMigMode(nvmlDevice_t handle, unsigned int *current, unsigned int *pending)
{
	WHOLE;
	*current = *pending = c.mig[device->gpu];
	return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetMaxMigDeviceCount(nvmlDevice_t handle, unsigned int *count)
{
	WHOLE;
	*count = c.mig[device->gpu] ? 7 : 0;
	return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetMigDeviceHandleByIndex(nvmlDevice_t handle, unsigned int i, nvmlDevice_t *slice)
{
	WHOLE;
	if (!c.mig[device->gpu] || (i != 0 && i != 3))
		return NVML_ERROR_NOT_FOUND;
	slice->handle = &slices[device->gpu][i == 3];
	return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetAttributes_v2(nvmlDevice_t handle, nvmlDeviceAttributes_t *attributes)
{
	ENTER_GPU;
	if (device->slice < 0)
		return NVML_ERROR_NOT_SUPPORTED;
	memset(attributes, 0, sizeof *attributes);
	attributes->gpuInstanceSliceCount = attributes->computeInstanceSliceCount = device->slice ? 1 : 3;
	attributes->memorySizeMB = slice_memory[device->slice] / MIB;
	return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetGpuInstanceId(nvmlDevice_t handle, unsigned int *id)
{
	ENTER_GPU;
	if (device->slice < 0)
		return NVML_ERROR_NOT_SUPPORTED;
	*id = device->slice ? 9 : 1;
	return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetComputeInstanceId(nvmlDevice_t handle, unsigned int *id)
{
	ENTER_GPU;
	if (device->slice < 0)
		return NVML_ERROR_NOT_SUPPORTED;
	*id = 0;
	return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetTopologyCommonAncestor(nvmlDevice_t handle, nvmlDevice_t other, nvmlGpuTopologyLevel_t *level)
{
	WHOLE;
	if (device->gpu / 2 == other.handle->gpu / 2)
		*level = NVML_TOPOLOGY_SINGLE;
	else
		*level = device->gpu / 4 == other.handle->gpu / 4 ? NVML_TOPOLOGY_NODE : NVML_TOPOLOGY_SYSTEM;
	return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetP2PStatus(nvmlDevice_t handle, nvmlDevice_t other, nvmlGpuP2PCapsIndex_t index,
				    nvmlGpuP2PStatus_t *status)
{
	WHOLE;
	if (index != NVML_P2P_CAPS_INDEX_NVLINK)
		return NVML_ERROR_NOT_SUPPORTED;
	*status = c.partition && device->gpu / 4 != other.handle->gpu / 4 ? NVML_P2P_STATUS_DISABLED_BY_REGKEY : NVML_P2P_STATUS_OK;
	return NVML_SUCCESS;
}

#define LINK \
	WHOLE; \
	if (c.unlinked) \
		return NVML_ERROR_NOT_SUPPORTED; \
	if (link >= LINKS) \
		return NVML_ERROR_INVALID_ARGUMENT

nvmlReturn_t nvmlDeviceGetNvLinkState(nvmlDevice_t handle, unsigned int link, nvmlEnableState_t *active)
{
	LINK;
	/* Directly, two links lead to each of the seven others, and four nowhere. */
	*active = !(device->gpu == c.down_gpu && (int)link == c.down_link) && (!c.direct || link < 14);
	return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetNvLinkRemoteDeviceType(nvmlDevice_t handle, unsigned int link, nvmlIntNvLinkDeviceType_t *type)
{
	LINK;
	*type = c.direct ? NVML_NVLINK_DEVICE_TYPE_GPU : NVML_NVLINK_DEVICE_TYPE_SWITCH;
	return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetNvLinkRemotePciInfo_v2(nvmlDevice_t handle, unsigned int link, nvmlPciInfo_t *pci)
{
	LINK;
	if (c.direct) {
		bus((device->gpu + 1 + link % 7) % GPUS, pci);
	} else {
		memset(pci, 0, sizeof *pci);
		pci->bus = 5 + link % 4;
	}
	return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetRemappedRows(nvmlDevice_t handle, unsigned int *corrected, unsigned int *uncorrected,
				       unsigned int *pending, unsigned int *failed)
{
	WHOLE;
	*corrected = device->gpu;
	*uncorrected = 2 * device->gpu;
	*pending = device->gpu == 2;
	*failed = device->gpu == 3;
	return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetFieldValues(nvmlDevice_t handle, int count, nvmlFieldValue_t *values)
{
	WHOLE;
	for (int i = 0; i < count; i++) {
		nvmlFieldValue_t *v = &values[i];
		v->nvmlReturn = NVML_SUCCESS;
		v->valueType = NVML_VALUE_TYPE_UNSIGNED_LONG_LONG;
		switch (v->fieldId) {
		case NVML_FI_DEV_RETIRED_SBE:
			v->valueType = NVML_VALUE_TYPE_UNSIGNED_INT;
			v->value.uiVal = device->gpu;
			break;
		case NVML_FI_DEV_RETIRED_DBE:
			v->valueType = NVML_VALUE_TYPE_UNSIGNED_INT;
			v->value.uiVal = 1;
			break;
		case NVML_FI_DEV_NVLINK_THROUGHPUT_DATA_TX:
		case NVML_FI_DEV_NVLINK_THROUGHPUT_DATA_RX:
			if (v->scopeId != 0xFFFFFFFFu)
				v->nvmlReturn = NVML_ERROR_INVALID_ARGUMENT;
			v->value.ullVal = (v->fieldId == NVML_FI_DEV_NVLINK_THROUGHPUT_DATA_TX ? 1000 : 2000) + device->gpu;
			break;
		case NVML_FI_DEV_GET_GPU_RECOVERY_ACTION:
			if (device->gpu == 4) {
				v->nvmlReturn = NVML_ERROR_NOT_SUPPORTED;
				break;
			}
			v->valueType = NVML_VALUE_TYPE_UNSIGNED_INT;
			v->value.uiVal = device->gpu == 2 ? NVML_GPU_RECOVERY_ACTION_GPU_RESET : NVML_GPU_RECOVERY_ACTION_NONE;
			break;
		default:
			v->nvmlReturn = NVML_ERROR_NOT_SUPPORTED;
		}
	}
	return NVML_SUCCESS;
}

#endif /* OLD */
#endif /* BARE */
