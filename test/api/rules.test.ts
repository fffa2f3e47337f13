/**
 * The rules of the condition, on facts that a test writes down: each says its fault with its numbers. And their agreement with
 * the alerts and with the document.
 */
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { parse } from 'yaml'
import { ROOT } from '../../ops/dev/install.mjs'
import { type Facts, type FleetProcess, splitReports } from '../../src/api/dashboard/facts.ts'
import { assess, RULES } from '../../src/api/dashboard/rules.ts'

const now_ms = Date.parse('2026-11-27T04:00:00.000Z')
const HOUR_MS = 3_600_000

function fleetProcess(role: 'api' | 'worker', pid: number, more: Partial<FleetProcess> = {}): FleetProcess {
  const id = `shop:${pid}`
  const { silent_ms = 300 } = more
  return {
    id,
    role,
    host: 'shop',
    version: '1.0.0',
    started_at: new Date(now_ms - HOUR_MS).toISOString(),
    uptime_ms: HOUR_MS,
    event_loop_p99_ms: 1,
    queues: [],
    breakers: {},
    failing: {},
    errors_per_minute: 0,
    settled: 0,
    waits: [],
    seen_ms: now_ms - silent_ms,
    silent_ms,
    ...more,
  }
}
const api = fleetProcess('api', 1)
const worker = fleetProcess('worker', 2)
const frozen = fleetProcess('worker', 3, { silent_ms: 4_000, queues: ['product:3'] })

const calm: Facts = {
  now_ms,
  dependencies: [
    { name: 'postgres', answered_ms: now_ms },
    { name: 'redis', answered_ms: now_ms },
  ],
  processes: [api, worker],
  queues: [],
  figures: { rows: 0, oldest_s: 0, blocked: [], stuck_charges: 0 },
  verification: { at: new Date(now_ms - 20_000).toISOString(), broken: [] },
  charges: { waiting: 0, more: false, oldest_ms: 0 },
  endpoints: [],
  failed_jobs: [{ queue: 'purchases', count: 3, recent: 0 }],
}
const queue = (oldest_ms: number, owner?: string) => ({
  resource: 'product:3',
  length: 1_200,
  more: false,
  oldest_ms,
  holder: owner === undefined ? null : { owner, fencing_token: 77 },
})
const failing = { failing: { payments: { for_ms: 30_000, ago_ms: 500 } } }

t.test('green: how many processes work, and how long the oldest row waits', async (t) => {
  t.match(assess(calm), { level: 'green', sentence: 'All systems work: 2 processes, nothing waits', since: null })
  const busy = assess({ ...calm, queues: [queue(1_600, 'shop:2 job 9')] })
  t.match(busy, {
    level: 'green',
    sentence: 'All systems work: 2 processes, nothing waits longer than 2 s',
    findings: [],
  })
})

/** A worker whose breaker is half open since its last call failed. */
const tried = (ago_ms: number) => ({
  breakers: { database: 'half_open' as const },
  failing: { database: { for_ms: ago_ms + 5_000, ago_ms } },
})

const CASES: [rule: string, level: 'amber' | 'red', facts: Partial<Facts>, sentence: string][] = [
  [
    'dependency_silent',
    'red',
    { dependencies: [{ name: 'redis', down: 'no response', answered_ms: now_ms - 6_000 }], processes: null },
    'Redis has not answered for 6 s: no response',
  ],
  [
    'dependency_silent',
    'red',
    { dependencies: [{ name: 'postgres', down: 'refused', answered_ms: now_ms - 6_000, never: true }] },
    'Postgres has not answered for 6 s: refused',
  ],
  ['no_worker', 'red', { processes: [api] }, 'No worker answers'],
  ['no_worker', 'red', { processes: [api, frozen] }, 'No worker answers; shop:3 was seen 4 s ago'],
  [
    'no_worker',
    'red',
    { processes: [api, frozen], queues: [queue(11_000)] },
    'product:3 has waited 11 s: no worker answers; shop:3 was seen 4 s ago',
  ],
  [
    'process_silent',
    'amber',
    { processes: [api, worker, frozen] },
    'worker shop:3 has not answered for 4 s: it is frozen, killed or cut off; it was settling product:3',
  ],
  [
    'queue_waits',
    'amber',
    { queues: [queue(4_000, 'warehouse')] },
    'product:3 has waited 4 s: its lease is held by warehouse with token 77',
  ],
  [
    'queue_waits',
    'red',
    { processes: [api, worker, frozen], queues: [queue(11_000, 'shop:3 job 9')] },
    'product:3 has waited 11 s: its lease is held by shop:3 job 9 with token 77, which has not answered for 4 s',
  ],
  [
    'queue_waits',
    'red',
    { queues: [queue(11_000, 'shop:2 job 9')] },
    'product:3 has waited 11 s: shop:2 is settling its 1,200 rows',
  ],
  [
    'queue_waits',
    'red',
    { queues: [queue(11_000)] },
    'product:3 has waited 11 s: no process holds its lease; 1,200 rows in it',
  ],
  [
    'queue_waits',
    'red',
    { processes: [api, fleetProcess('worker', 2, { breakers: { leases: 'open' } })], queues: [queue(11_000)] },
    'product:3 has waited 11 s: open breakers: leases of shop:2',
  ],
  [
    'queue_blocked',
    'red',
    { figures: { rows: 1, oldest_s: 11, blocked: ['product:3 (held by shop:2 job 9)'], stuck_charges: 0 } },
    'product:3 (held by shop:2 job 9) has not moved for 10 s while its lease is held',
  ],
  [
    'breaker_open',
    'red',
    { processes: [api, fleetProcess('worker', 2, { breakers: { database: 'open' } })] },
    'The breaker database of worker shop:2 is open',
  ],
  [
    'breaker_open',
    'red',
    { processes: [api, fleetProcess('worker', 2, tried(400))] },
    'The breaker database of worker shop:2 is open',
  ],
  [
    'invariant_broken',
    'red',
    {
      verification: {
        at: new Date(now_ms).toISOString(),
        broken: [{ invariant: 'never oversold', offenders: ['a:1'] }],
      },
    },
    'An invariant is broken: never oversold (a:1)',
  ],
  ['verifier_silent', 'amber', { verification: null }, 'No worker has verified the invariants for 3 min'],
  [
    'provider_down',
    'red',
    {
      processes: [api, fleetProcess('worker', 2, failing)],
      charges: { waiting: 12, more: false, oldest_ms: 31_000 },
    },
    'Payments: the provider has not answered for 30 s, 12 charges wait',
  ],
  [
    'payments_stuck',
    'red',
    { figures: { rows: 0, oldest_s: 0, stuck_charges: 1 } },
    'Payments: 1 charge or refund has not moved for an hour',
  ],
  [
    'webhooks_behind',
    'amber',
    {
      endpoints: [
        {
          id: 'e1',
          url: 'https://example.com/hook',
          behind: 4_000,
          more: false,
          failing_since: new Date(now_ms - 300_000).toISOString(),
        },
      ],
    },
    'Webhooks: example.com is 4,000 events behind and has failed for 5 min',
  ],
  [
    'jobs_failed',
    'amber',
    { failed_jobs: [{ queue: 'purchases', count: 5, recent: 2 }] },
    "2 jobs in BullMQ's queue purchases failed within the last minute",
  ],
  ['unread', 'amber', { queues: null }, 'This page could not read: queues'],
]

t.test('each rule: its fault is said with its numbers', async (t) => {
  for (const [rule, level, facts, sentence] of CASES) {
    const condition = assess({ ...calm, ...facts })
    const finding = condition.findings.find((one) => one.rule === rule && one.sentence === sentence)
    t.match(finding, { rule, level, sentence }, `${sentence}\n${JSON.stringify(condition.findings)}`)
  }
  for (const { name } of RULES)
    t.ok(
      CASES.some(([rule]) => rule === name),
      `${name} has a case`,
    )
})

t.test('what ends, or is not yet a fault: no finding', async (t) => {
  const quiet: Partial<Facts>[] = [
    { queues: [queue(2_000)] },
    { processes: [api, fleetProcess('worker', 2, tried(60_000))] },
    { processes: [api, fleetProcess('worker', 2, { uptime_ms: 60_000 })], verification: null },
    // The job failed because Redis was away.
    {
      dependencies: [{ name: 'redis', answered_ms: now_ms, back_ms: now_ms - 5_000 }],
      failed_jobs: [{ queue: 'purchases', count: 5, recent: 2 }],
    },
    // The last call failed long ago, and no charge waits.
    {
      processes: [api, fleetProcess('worker', 2, { failing: { payments: { for_ms: 90_000, ago_ms: 60_000 } } })],
    },
    { endpoints: [{ id: 'e1', url: 'https://example.com', behind: 20, more: false, failing_since: null }] },
    { processes: null },
    // A process that has just started is too busy to read the answer.
    { dependencies: [{ name: 'postgres', down: 'no response', answered_ms: now_ms - 2_000, never: true }] },
  ]
  for (const facts of quiet) t.match(assess({ ...calm, ...facts }), { level: 'green' }, JSON.stringify(facts))
})

t.test('several faults: the cause comes first, red before amber', async (t) => {
  const { sentence, findings } = assess({
    ...calm,
    processes: [api, worker, frozen],
    queues: null,
    dependencies: [{ name: 'postgres', down: 'refused', answered_ms: now_ms - 2_000 }],
    verification: null,
  })
  t.equal(sentence, 'Postgres has not answered for 2 s: refused')
  t.same(
    findings.map(({ rule }) => rule),
    ['dependency_silent', 'process_silent', 'verifier_silent'],
  )
})

t.test('silent process: missed until another of its role has started in its place, or for a minute', async (t) => {
  const started = (pid: number, ago_ms: number) => fleetProcess('worker', pid, { uptime_ms: ago_ms, silent_ms: 0 })
  const split = (...processes: FleetProcess[]) => splitReports({ now_ms, processes }).gone
  t.same(split(api, worker, frozen), [], 'the other worker is older')
  t.same(split(api, started(9, 2_000), frozen), ['shop:3'])
  const two = fleetProcess('worker', 4, { silent_ms: 5_000 })
  t.same(split(started(9, 2_000), frozen, two), ['shop:4'], 'one for one')
  t.same(split(fleetProcess('api', 9, { uptime_ms: 2_000 }), frozen), [], 'an API is no worker')
  t.same(split(worker, fleetProcess('worker', 3, { silent_ms: 61_000 })), ['shop:3'])
})

t.test(
  'alerts and document: each rule has its alert with its severity and threshold, and both are described',
  async (t) => {
    const text = readFileSync(join(ROOT, 'ops/deploy/prometheus/alerts.yml'), 'utf8')
    const alerts: { alert: string; expr: string; labels: { severity: string } }[] = parse(text).groups[0].rules
    const document = readFileSync(join(ROOT, 'docs/dashboard.md'), 'utf8')
    for (const { name, level, alert } of RULES) {
      t.match(document, `| \`${name}\``, `${name} is in docs/dashboard.md`)
      if ('none' in alert) continue
      const found = alerts.find((one) => one.alert === alert.name)
      t.equal(found?.labels.severity, level === 'red' ? 'page' : 'ticket', `${alert.name}, ${name}`)
      const [, limit] = / > (\d+)$/.exec(found?.expr ?? '') ?? []
      t.equal(limit === undefined ? undefined : Number(limit), alert.threshold, `${alert.name}: ${found?.expr}`)
    }
    for (const { alert } of alerts) t.match(document, alert, `${alert} is in docs/dashboard.md`)
  },
)
