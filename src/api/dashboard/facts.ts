/**
 * What the rules of the condition look at. Invariant: a fact that could not be read is null, so that no rule takes silence for
 * health. Times are in milliseconds since 1970, by this process's clock, except those of reports: they are by the clock of Redis.
 */
import type { DependencyState } from '../../shared/dependencies.ts'
import { PROCESS_ID, type SeenProcess } from '../../shared/fleet-reports.ts'
import type { QueueFigures, VerificationResult } from '../../shared/fleet-status.ts'
import type { FailedJobs } from '../../shared/jobs/failed-jobs.ts'

/** A queue with rows. */
export interface WaitingQueue {
  resource: string
  length: number
  /** the queue is longer than `length` */
  more: boolean
  oldest_ms: number
  /** who may settle it now; null: no process, or one that has had the lease for some milliseconds only */
  holder: { owner: string; fencing_token: number } | null
}

/** A process of the fleet. */
export interface FleetProcess extends SeenProcess {
  /** milliseconds since its last report */
  silent_ms: number
}

export interface Facts {
  now_ms: number
  dependencies: DependencyState[]
  /** without the processes that were replaced or are gone for long */
  processes: FleetProcess[] | null
  queues: WaitingQueue[] | null
  /** what the fleet monitor found; undefined: no worker has measured, or the result has expired */
  figures: QueueFigures | undefined
  verification: VerificationResult | null
  /** charges and refunds that the provider has not ended yet */
  charges: { waiting: number; more: boolean; oldest_ms: number } | null
  /** webhook endpoints with undelivered events */
  endpoints: { id: string; url: string; behind: number; more: boolean; failing_since: string | null }[] | null
  failed_jobs: FailedJobs[] | null
}

/**
 * Milliseconds after which a process that reports once a second counts as silent. More than half a second of slack, for a blocked
 * event loop; less than two seconds, so that the page says it within three.
 */
export const SILENT_MS = 1_800
/**
 * Milliseconds after which a silent process is no longer missed. The page does not know how many processes there should be: one
 * that was killed and not replaced looks like one that was taken away. Prometheus knows its targets: ProcessDown goes on.
 */
const MISSED_MS = 60_000
/**
 * Milliseconds after an outage of Redis in which silence means nothing: the reports of the others may still be on their way.
 */
const SETTLING_MS = 2_000

export interface Reports {
  now_ms: number
  processes: SeenProcess[]
}

/**
 * Splits the reports into the processes of the fleet and those that are gone. A silent process is gone when another process of
 * its role has started since its last report, one for one, or after MISSED_MS.
 */
export function splitReports({ now_ms, processes }: Reports): { present: FleetProcess[]; gone: string[] } {
  const all = processes
    .map((one) => ({ ...one, silent_ms: Math.max(0, now_ms - one.seen_ms) }))
    .sort((a, b) => a.seen_ms - b.seen_ms)
  const gone = new Set<string>()
  for (const role of ['api', 'worker'] as const) {
    const started = all
      .filter((one) => one.role === role && one.silent_ms <= SILENT_MS)
      .map((one) => one.seen_ms - one.uptime_ms)
    for (const one of all.filter((one) => one.role === role && one.silent_ms > SILENT_MS)) {
      const replacement = started.findIndex((start_ms) => start_ms > one.seen_ms)
      if (replacement >= 0) started.splice(replacement, 1)
      if (replacement >= 0 || one.silent_ms > MISSED_MS) gone.add(one.id)
    }
  }
  return { present: all.filter(({ id }) => !gone.has(id)), gone: [...gone] }
}

/**
 * Returns true if the reports say which processes live: Redis has answered for a while, and this process's own report is there.
 * A Redis that has just started empty, or has just woken, says nothing about the others.
 */
export function areReportsTrusted(reports: Reports, redis: DependencyState | undefined, now_ms: number): boolean {
  if (redis?.down !== undefined || now_ms - (redis?.back_ms ?? 0) < SETTLING_MS) return false
  const own = reports.processes.find(({ id }) => id === PROCESS_ID)
  return own !== undefined && reports.now_ms - own.seen_ms <= SILENT_MS
}
