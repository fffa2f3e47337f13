/**
 * The rules of the condition: each finds one kind of fault in the facts and says it in a sentence with its numbers. Invariants: a
 * rule is written here once; a rule that has an alert shares its threshold with ops/deploy/prometheus/alerts.yml, which
 * test/api/rules.test.ts compares; a fact that is unknown breaks no rule but `unread`.
 */
import { BLOCKED_S } from '../../shared/invariants.ts'
import { type Facts, type FleetProcess, SILENT_MS, type WaitingQueue } from './facts.ts'

export type Level = 'green' | 'amber' | 'red'

export interface Finding {
  level: Exclude<Level, 'green'>
  sentence: string
  /** ISO 8601; null: unknown */
  since: string | null
  /** resource, process, endpoint or dependency */
  subject: string | null
}

export interface Rule {
  name: string
  /** the worst level of its findings: red where the alert pages, amber where it opens a ticket */
  level: Finding['level']
  /** name in alerts.yml, and the threshold in its expression, if it has one */
  alert: { name: string; threshold?: number } | { none: string }
  finds(facts: Facts): Finding[]
}

/** Seconds that the first row of a queue may wait: workers settle a queue within a second. */
const WAITS_S = { amber: 3, red: 10 } as const
/** Milliseconds that a row has waited when the page says that no worker answers: any younger row may still be under way. */
const UNSETTLED_MS = 1_000
/** Events that an endpoint may be behind: some seconds of a sale. */
const BEHIND = 1_000
/** Milliseconds for which the deliveries to an endpoint may fail: its own deployment takes less. */
const FAILING_MS = 60_000
/**
 * Milliseconds for which a failed call counts without another one: if no charge waits, none shows whether the provider is back.
 */
const FAILED_RECENTLY_MS = 10_000
/** Milliseconds after the start of this process in which it may be too busy to read the answers to its first checks. */
const STARTING_MS = 5_000
/**
 * Milliseconds after a failed call in which a half-open breaker counts as open: it is half open most of the time while calls fail,
 * and for ever when calls end.
 */
const HALF_OPEN_MS = 3_000
/** Milliseconds after the start of the workers, or after an outage, in which the next verification ends. */
const FIRST_VERIFICATION_MS = 180_000
/** Milliseconds after an outage in which failed jobs are no news: BullMQ gives up a job within seconds. */
const AFTERMATH_MS = 60_000

const at = (ms: number) => new Date(ms).toISOString()
const count = (n: number, more = false) => `${n.toLocaleString('en-US')}${more ? '+' : ''}`
const plural = (n: number, noun: string, more = false) => `${count(n, more)} ${noun}${n === 1 && !more ? '' : 's'}`

/** Returns a duration as text: 4 s, 3 min, 2 h. */
function duration(ms: number): string {
  const s = Math.max(1, Math.round(ms / 1_000))
  if (s < 120) return `${s} s`
  return s < 7_200 ? `${Math.round(s / 60)} min` : `${Math.round(s / 3_600)} h`
}

const LABELS: Record<string, string> = {
  postgres: 'Postgres',
  redis: 'Redis',
  locks: 'The lock server',
  etcd: 'etcd, the lock server,',
}

const dependencies: Rule = {
  name: 'dependency_silent',
  level: 'red',
  alert: { none: '/readyz takes the process out of the load balancer, and BreakerOpen pages' },
  finds: ({ dependencies: all, now_ms }) =>
    all.flatMap(({ name, down, answered_ms, never }) => {
      if (down === undefined || (never && now_ms - answered_ms < STARTING_MS)) return []
      const sentence = `${LABELS[name] ?? name} has not answered for ${duration(now_ms - answered_ms)}`
      return [{ level: 'red', sentence: `${sentence}: ${down}`, since: at(answered_ms), subject: name }]
    }),
}

/** Returns the milliseconds since the end of the last outage that this process has seen. */
const sinceOutage = ({ dependencies: all, now_ms }: Facts) =>
  now_ms - Math.max(0, ...all.map(({ back_ms }) => back_ms ?? 0))
const isSilent = ({ silent_ms }: FleetProcess) => silent_ms > SILENT_MS
const liveWorkers = ({ processes }: Facts) =>
  processes?.filter((one) => one.role === 'worker' && !isSilent(one)) ?? null
const waited = ({ resource, oldest_ms }: WaitingQueue) => `${resource} has waited ${duration(oldest_ms)}`

const noWorker: Rule = {
  name: 'no_worker',
  level: 'red',
  alert: { name: 'FleetDown' },
  finds(facts) {
    const { processes, queues, now_ms } = facts
    if (liveWorkers(facts)?.length !== 0) return []
    const last = processes?.filter(({ role }) => role === 'worker').at(-1)
    const since = last ? at(last.seen_ms) : null
    const seen = last ? `; ${last.id} was seen ${duration(last.silent_ms)} ago` : ''
    const first = queues?.[0]
    if (first && first.oldest_ms > UNSETTLED_MS) {
      const sentence = `${waited(first)}: no worker answers${seen}`
      return [{ level: 'red', sentence, since: since ?? at(now_ms - first.oldest_ms), subject: first.resource }]
    }
    return [{ level: 'red', sentence: `No worker answers${seen}`, since, subject: last?.id ?? null }]
  },
}

const processSilent: Rule = {
  name: 'process_silent',
  level: 'amber',
  alert: { name: 'ProcessDown' },
  finds: ({ processes }) =>
    (processes ?? []).filter(isSilent).map(({ id, role, seen_ms, silent_ms, queues }) => {
      const work = queues.length > 0 ? `; it was settling ${queues.join(', ')}` : ''
      const sentence = `${role} ${id} has not answered for ${duration(silent_ms)}: it is frozen, killed or cut off${work}`
      return { level: 'amber', sentence, since: at(seen_ms), subject: id }
    }),
}

/** Returns the names of the breakers that let no call through. */
const openBreakers = ({ breakers, failing }: FleetProcess) =>
  Object.entries(breakers).flatMap(([name, state]) =>
    state === 'open' || (state === 'half_open' && (failing[name]?.ago_ms ?? Infinity) < HALF_OPEN_MS) ? [name] : [],
  )

/** Returns why the queue waits, as far as the facts name it. */
function causeOf(facts: Facts, { holder, length, more }: WaitingQueue): string {
  const process = holder && facts.processes?.find(({ id }) => holder.owner.startsWith(id))
  const lease = holder && `its lease is held by ${holder.owner} with token ${holder.fencing_token}`
  if (process && isSilent(process)) return `${lease}, which has not answered for ${duration(process.silent_ms)}`
  const open = (liveWorkers(facts) ?? []).flatMap((one) => openBreakers(one).map((name) => `${name} of ${one.id}`))
  if (open.length > 0) return `open breakers: ${open.join(', ')}`
  if (process) return `${process.id} is settling its ${plural(length, 'row', more)}`
  return lease ?? `no process holds its lease; ${plural(length, 'row', more)} in it`
}

const queueWaits: Rule = {
  name: 'queue_waits',
  level: 'red',
  alert: { name: 'QueueWaitsTooLong', threshold: WAITS_S.red },
  finds(facts) {
    // `no_worker` has said it.
    if (liveWorkers(facts)?.length === 0) return []
    return (facts.queues ?? []).flatMap((queue) => {
      const waits_s = queue.oldest_ms / 1_000
      if (waits_s <= WAITS_S.amber) return []
      const level = waits_s > WAITS_S.red ? 'red' : 'amber'
      const sentence = `${waited(queue)}: ${causeOf(facts, queue)}`
      return [{ level, sentence, since: at(facts.now_ms - queue.oldest_ms), subject: queue.resource }]
    })
  },
}

const queueBlocked: Rule = {
  name: 'queue_blocked',
  level: 'red',
  alert: { name: 'QueueBlocked', threshold: 0 },
  finds: ({ figures }) =>
    (figures?.blocked ?? []).map((queue) => ({
      level: 'red',
      sentence: `${queue} has not moved for ${BLOCKED_S} s while its lease is held`,
      since: null,
      subject: queue.split(' ')[0] ?? null,
    })),
}

const breakerOpen: Rule = {
  name: 'breaker_open',
  level: 'red',
  alert: { name: 'BreakerOpen' },
  finds: ({ processes }) =>
    (processes ?? [])
      .filter((one) => !isSilent(one))
      .flatMap((one) =>
        openBreakers(one).flatMap((name) => {
          // `provider_down` speaks about payments.
          if (name === 'payments') return []
          const for_ms = one.failing[name]?.for_ms
          const since = for_ms === undefined ? null : at(one.seen_ms - for_ms)
          const sentence = `The breaker ${name} of ${one.role} ${one.id} is open`
          return [{ level: 'red' as const, sentence, since, subject: one.id }]
        }),
      ),
}

const invariantBroken: Rule = {
  name: 'invariant_broken',
  level: 'red',
  alert: { name: 'VerifierFailed', threshold: 0 },
  finds: ({ verification }) =>
    (verification?.broken ?? []).map(({ invariant, offenders }) => ({
      level: 'red',
      sentence: `An invariant is broken: ${invariant} (${offenders.slice(0, 3).join(', ')}${offenders.length > 3 ? ', …' : ''})`,
      since: verification?.at ?? null,
      subject: offenders[0] ?? null,
    })),
}

const verifierSilent: Rule = {
  name: 'verifier_silent',
  level: 'amber',
  alert: { name: 'VerifierSilent' },
  finds(facts) {
    const workers = liveWorkers(facts) ?? []
    const oldest_ms = Math.max(0, ...workers.map(({ uptime_ms }) => uptime_ms))
    if (facts.verification !== null || Math.min(oldest_ms, sinceOutage(facts)) < FIRST_VERIFICATION_MS) return []
    const sentence = `No worker has verified the invariants for ${duration(FIRST_VERIFICATION_MS)}`
    return [{ level: 'amber', sentence, since: null, subject: null }]
  },
}

const providerDown: Rule = {
  name: 'provider_down',
  level: 'red',
  alert: {
    none: 'charges are retried until the provider answers; PaymentsStuck pages when they do not move for an hour',
  },
  finds({ processes, charges, now_ms }) {
    const failing = (processes ?? []).flatMap((one) => (isSilent(one) ? [] : (one.failing.payments ?? [])))
    if (failing.length === 0 || !charges) return []
    const for_ms = Math.max(...failing.map((one) => one.for_ms))
    const ago_ms = Math.min(...failing.map((one) => one.ago_ms))
    if (charges.waiting === 0 && ago_ms > FAILED_RECENTLY_MS) return []
    const { waiting, more } = charges
    const wait = waiting === 1 ? '1 charge waits' : `${waiting === 0 ? 'no' : count(waiting, more)} charges wait`
    const sentence = `Payments: the provider has not answered for ${duration(for_ms)}, ${wait}`
    return [{ level: 'red', sentence, since: at(now_ms - for_ms), subject: 'payments' }]
  },
}

const paymentsStuck: Rule = {
  name: 'payments_stuck',
  level: 'red',
  alert: { name: 'PaymentsStuck', threshold: 0 },
  finds({ figures }) {
    const stuck = figures?.stuck_charges ?? 0
    if (stuck === 0) return []
    const moved = stuck === 1 ? 'charge or refund has' : 'charges or refunds have'
    const sentence = `Payments: ${count(stuck)} ${moved} not moved for an hour`
    return [{ level: 'red', sentence, since: null, subject: 'payments' }]
  },
}

const webhooksBehind: Rule = {
  name: 'webhooks_behind',
  level: 'amber',
  alert: { none: 'the receiver belongs to the customer, who sees the failures at GET /api/webhook-endpoints' },
  finds: ({ endpoints, now_ms }) =>
    (endpoints ?? []).flatMap(({ id, url, behind, more, failing_since }) => {
      const failing_ms = failing_since === null ? 0 : now_ms - Date.parse(failing_since)
      if (behind < BEHIND && failing_ms < FAILING_MS) return []
      const failing = failing_since === null ? '' : ` and has failed for ${duration(failing_ms)}`
      const sentence = `Webhooks: ${new URL(url).host} is ${plural(behind, 'event', more)} behind${failing}`
      return [{ level: 'amber', sentence, since: failing_since, subject: id }]
    }),
}

const jobsFailed: Rule = {
  name: 'jobs_failed',
  level: 'amber',
  alert: { none: 'a job is a hint: the sweeper adds another one, and QueueWaitsTooLong pages if that does not help' },
  finds(facts) {
    if (sinceOutage(facts) < AFTERMATH_MS) return []
    return (facts.failed_jobs ?? []).flatMap(({ queue, recent }) => {
      if (recent === 0) return []
      const sentence = `${plural(recent, 'job')} in BullMQ's queue ${queue} failed within the last minute`
      return [{ level: 'amber', sentence, since: null, subject: queue }]
    })
  },
}

const unread: Rule = {
  name: 'unread',
  level: 'amber',
  alert: { none: 'it is about this page only' },
  finds({ dependencies: all, queues, charges, endpoints, failed_jobs }) {
    // If a server is down, that is the finding.
    if (all.some(({ down }) => down !== undefined)) return []
    const missing = Object.entries({ queues, charges, endpoints, 'failed jobs': failed_jobs })
    const names = missing.flatMap(([name, value]) => (value === null ? [name] : []))
    if (names.length === 0) return []
    const sentence = `This page could not read: ${names.join(', ')}`
    return [{ level: 'amber', sentence, since: null, subject: null }]
  },
}

/** The worst first: of two findings of one level the earlier rule is the cause, or matters more. */
export const RULES: readonly Rule[] = [
  dependencies,
  invariantBroken,
  noWorker,
  queueBlocked,
  queueWaits,
  providerDown,
  breakerOpen,
  paymentsStuck,
  processSilent,
  webhooksBehind,
  jobsFailed,
  verifierSilent,
  unread,
]

export interface Condition {
  level: Level
  sentence: string
  since: string | null
  /** the worst first */
  findings: (Finding & { rule: string })[]
}

/** Most findings that a condition lists. */
const LISTED = 50

export function assess(facts: Facts): Condition {
  const all = RULES.flatMap((rule) => rule.finds(facts).map((finding) => ({ rule: rule.name, ...finding })))
  const findings = [...all.filter(({ level }) => level === 'red'), ...all.filter(({ level }) => level === 'amber')]
  const [worst] = findings
  if (worst) {
    const { level, sentence, since } = worst
    return { level, sentence, since, findings: findings.slice(0, LISTED) }
  }
  return { level: 'green', sentence: calm(facts), since: null, findings: [] }
}

function calm({ processes, queues }: Facts): string {
  const fleet = processes ? `${processes.length} ${processes.length === 1 ? 'process' : 'processes'}, ` : ''
  const first = queues?.[0]
  return `All systems work: ${fleet}${first ? `nothing waits longer than ${duration(first.oldest_ms)}` : 'nothing waits'}`
}
