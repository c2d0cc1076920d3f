// Package trace holds what happens to a simulated fleet in the course of time: workloads that come, grow and
// go, and trouble. A trace is a data file, in one of two formats, or made by Synthetic.
//
//	Read, Write   JSON Lines: one Event a line, ordered by time, strict about unknown fields
//	ReadJobs      CSV of jobs as public traces have them: job, submit time, GPUs, duration
//
// Both readers name the line of what they refuse. testdata/jobs.csv is an example that we made.
//
// # Jobs
//
// The first line names the columns, in any order and case; the others are ignored. A column has one of
// several names, after the traces that are commonly published:
//
//	job        job, job_id, jobid, job_name
//	submit     submit, submit_time, submitted_time, start_time, timestamp
//	GPUs       gpus, num_gpus, num_gpu, gpu_num, or plan_gpu, which counts hundredths of a GPU
//	duration   duration, run_time, runtime, or end_time, from which the submit time is taken off
//	instances  instances, inst_num, num_inst: how many instances of so many GPUs; 1 without the column
//
// Times are seconds (fractions allowed) or "2006-01-02 15:04:05". The trace begins with the first job. Rows
// without a duration or end (the job never ran) are left out and counted, as are those without GPUs. A part
// of a GPU is asked for as a whole one. A job of more than 8 GPUs becomes a gang of nodes with 8 each.
//
// # What Synthetic draws
//
// It is a model of a shared fleet, not a copy of one. Every number comes from one seeded generator (PCG), so
// that a seed gives the same trace on every machine. Devices are asked for as "H100-80GB", "H100*" or of any
// model with the weights 70, 20 and 10.
//
//   - Services fill Options.ServiceLoad of the fleet's devices in the first twentieth of the time, evenly.
//     Their instances have 1, 2, 4 or 8 devices with the weights 50, 20, 15, 15, as most models fit on few
//     devices. Their number is geometric with mean 4, capped at 64: few services are large. A quarter is
//     spread over racks (half of these strictly, skew 1 to 3), a tenth is anti-affine, and of those with 2
//     devices or more a third demands NVLink. Priorities are 50, 60 or 70. One service in twenty has no
//     devices. A tenth is deleted again at a time drawn evenly from the rest of the trace.
//   - Each service is scaled twice a day in the mean (Poisson), by a factor drawn evenly from 0.5 to 1.5.
//   - Jobs are preemptible, of priority 0 to 20, and come as a Poisson process whose rate follows the day:
//     1 + 0.6 sin. Their devices have the weights 40, 20, 15, 15 for 1, 2, 4 and 8, and 10 for gangs of 2 to
//     8 nodes with 8 each. Durations are log-normal with median 10 min and sigma 1.5, at most 12 h. The rate
//     is such that jobs would fill Options.JobLoad of the devices in the mean, if none waited.
//   - A host crashes once in 60 days in the mean (Poisson); it is back after 3 to 20 min, one in ten only
//     after 1 to 4 h. As often it is cut off for 5 s to 5 min while its containers run on.
//   - A device fails once in 120 days, for 10 min to 6 h; in two of three cases its instances have to leave.
//   - A node is drained once in 30 days, for half an hour to 2 h, with a deadline after 10 min, and one is
//     cordoned as often. One drain in five is called off after 3 min.
//   - The leader changes four times a day, every other time with a restart from its snapshot.
//   - One project of four has a quota of devices, which is halved and given back in the course of the day.
package trace
