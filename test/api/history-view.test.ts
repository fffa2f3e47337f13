/** The history of a row from given rows, without processes: the order of its entries, and what only some of the rows tell. */
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { ROOT } from '../../ops/dev/install.mjs'
import type { HistoryMovement, HistoryRow, Settlement } from '../../src/api/queue/history-rows.ts'
import { HISTORY_WORDS } from '../../src/api/routes/history-schema.ts'
import { awaitedBy, historyOf } from '../../src/api/routes/history-view.ts'

/** A time in microseconds that differs from another one by less than a millisecond. */
const at = (us: number) => 1_795_000_000_000_000 + us
const TOKEN = 7
const settlement = (status: Settlement['status'], us: number, more: Partial<Settlement> = {}): Settlement => ({
  status,
  at_us: at(us),
  by: 'host:1',
  fencing_token: TOKEN,
  expires_us: null,
  ...more,
})
const movement = (reason: HistoryMovement['reason'], us: number): HistoryMovement => ({
  resource: 'product:1',
  reason,
  delta: reason === 'hold' || reason === 'sale' ? -1 : 1,
  fencing_token: TOKEN,
  at_us: at(us),
})
const row = (more: Partial<HistoryRow> = {}): HistoryRow => ({
  seq: 1,
  queue: 'product:1',
  status: 'confirmed',
  reason: null,
  observed: null,
  conflicting_ids: null,
  replaces_id: null,
  created_us: at(0),
  expires_us: null,
  settlements: [],
  ahead: 0,
  commands: [],
  movements: [],
  charges: [],
  deliveries: [],
  replacement: null,
  ...more,
})
const words = (one: HistoryRow, overdue = false) => historyOf(one, overdue).map(({ what }) => what)

t.test('events of one millisecond: in the order of their microseconds', (t) => {
  const command = {
    id: 'c',
    seq: 2,
    action: 'confirm' as const,
    status: 'done' as const,
    reason: null,
    observed_status: 'held' as const,
    fencing_token: TOKEN,
    by: 'host:1',
    created_us: at(20),
    settled_us: at(31),
  }
  const confirmed = row({ settlements: [settlement('held', 10), settlement('confirmed', 30)], commands: [command] })
  t.same(words(confirmed), ['queued', 'held', 'command_received', 'confirmed', 'command_done'])
  const at_once = { ...command, created_us: at(30), settled_us: at(30) }
  const order = ['queued', 'held', 'command_received', 'confirmed', 'command_done']
  t.same(words({ ...confirmed, commands: [at_once] }), order, 'in the order of cause and effect at equal times')
  t.end()
})

t.test('hold that a charge extended: one entry, with the time at which it began', (t) => {
  const settlements = [settlement('held', 10), settlement('held', 20), settlement('confirmed', 30)]
  const history = historyOf(row({ settlements }), false)
  t.same(
    history.map(({ what }) => what),
    ['queued', 'held', 'confirmed'],
  )
  t.equal(Date.parse(history[1]?.at ?? ''), Math.floor(at(10) / 1000))
  t.end()
})

t.test('statuses that only the ledger shows: a batch of several moves, a row of an older version', (t) => {
  const movements = [movement('hold', 12), movement('release', 12), movement('sale', 13), movement('refund', 14)]
  const batch = historyOf(row({ status: 'refunded', settlements: [settlement('refunded', 11)], movements }), false)
  t.same(
    batch.map(({ what }) => what),
    ['queued', 'held', 'confirmed', 'refunded'],
  )
  t.match(batch[1], { by: 'host:1', fencing_token: TOKEN, detail: { movements: [{ reason: 'hold' }] } })
  t.match(batch[2]?.detail?.movements, [{ reason: 'release' }, { reason: 'sale' }])
  const later = settlement('refunded', 50, { fencing_token: TOKEN + 1 })
  const sold = historyOf(row({ status: 'refunded', settlements: [later], movements: movements.slice(2) }), false)
  t.same(
    sold.map(({ what }) => what),
    ['queued', 'confirmed', 'refunded'],
  )
  t.notOk('by' in (sold[1] ?? {}), 'another lease, so perhaps another process')
  t.end()
})

t.test('overdue hold: expired when it ended, and nothing is awaited', (t) => {
  const held = row({ status: 'held', expires_us: at(20), settlements: [settlement('held', 10)] })
  t.same(words(held, true), ['queued', 'held', 'expired'])
  t.equal(awaitedBy(held, true), undefined)
  t.same(awaitedBy(held, false), { what: 'hold', until_us: at(20) })
  t.end()
})

t.test('more rows ahead than are counted: the number is capped and says so', (t) => {
  t.match(historyOf(row({ ahead: 10_001 }), false)[0]?.detail, { ahead: 10_000, ahead_capped: true })
  t.notOk('ahead_capped' in (historyOf(row({ ahead: 10_000 }), false)[0]?.detail ?? {}))
  t.end()
})

t.test('docs/api.md: explains each word', (t) => {
  const page = readFileSync(join(ROOT, 'docs/api.md'), 'utf8')
  t.same(
    HISTORY_WORDS.filter((word) => !page.includes(`\`${word}\``)),
    [],
  )
  t.end()
})
