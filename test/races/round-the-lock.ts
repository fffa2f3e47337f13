/**
 * Races in which a lock is bypassed, late, lost or held by a dead process: the database stays correct, and the queue
 * goes on.
 */
import { until } from '../support/environment.ts'
import { idOf, type Race, shared, times, won } from './race.ts'

const NO_LEASE = 'there is no lease to lose'
/** TTL of the lease of a dead holder, in milliseconds. */
const DEAD_MS = 1_500

export const ROUND_THE_LOCK: readonly Race[] = [
  {
    id: 6,
    from: 'medusa#16569',
    name: 'SQL callers without queue and lock: the database refuses those beyond the stock',
    async run({ check, make }) {
      const scarce = await make(4)
      const [past, answers] = await Promise.all([
        times(6, (n) => scarce.past(`past${n}-${scarce.ref}`, n)),
        times(6, (n) => scarce.take(`c${n}-${scarce.ref}`, { place: n % 4 })),
      ])
      const wins = past.filter(Boolean).length + answers.filter(won).length
      check.equal(wins, 4, `${past.filter(Boolean).length} in SQL and the rest through the line`)
      check.same(await scarce.counts(), { taken: 4, held: 0 }, 'four of four are taken')
    },
  },
  {
    id: 21,
    from: 'bull#1416, bullmq#439',
    name: 'stalled jobs run again while the first ones continue: every row is settled once',
    async run({ check, environment, make, scarcity }) {
      const scarce = await make(4)
      await environment.storm(scarce.lines, async () => {
        const asked = await times(10, (n) => scarce.take(`c${n}-${scarce.ref}`, { hold: true }))
        shared(check, asked, 4, scarcity.refusal)
        const held = asked.filter(won).map(idOf)
        const ends = await times(8, (n) =>
          n % 4 < 2 ? scarce.keep(held[n % 4] ?? '') : scarce.giveUp(held[n % 4] ?? ''),
        )
        const gone = ends.filter((_, n) => n % 4 >= 2)
        check.equal(gone.filter(won).length, 2, 'two are given up, each once')
      })
      check.same(await scarce.counts(), { taken: 2, held: 0 }, 'two are taken')
      check.equal(await scarce.beside(), 2, 'and paid')
    },
  },
  {
    id: 22,
    from: 'woocommerce#25708, woocommerce#26226',
    name: 'table with the guard missing: nothing is sold, and requests are settled when it is back',
    not: { drivers: 'what guards a ride is on the table that it is written to' },
    apart: true,
    async run({ check, environment, make, among, scarcity }) {
      const scarce = await make(1)
      const early = await environment.without('ledger_entries', among, async () => {
        const answer = await scarce.take(`early-${scarce.ref}`, { wait_s: 1 })
        check.same(await scarce.counts(), { taken: 0, held: 0 }, 'nothing is sold')
        return answer
      })
      check.equal(early.status, 202, 'and nothing is lost: it stands in its line')
      await until(async () => (await environment.shop.queued()) === 0, {
        what: 'the lines to go on',
        timeout_ms: 30_000,
      })
      shared(check, [await scarce.take(`late-${scarce.ref}`)], 0, scarcity.refusal)
      check.equal(await scarce.beside(), 1, 'it went to who was there first')
    },
  },
  {
    id: 24,
    from: 'redisson#3004, redisson#3730, redisson#2883',
    name: 'a holder and three waiters of every lock die: the queue goes on, in order and to the end',
    lockingOnly: NO_LEASE,
    async run({ check, environment, make, scarcity }) {
      const scarce = await make(2)
      await environment.dieHolding(scarce.locked, DEAD_MS)
      const answers = await times(6, (n) => scarce.take(`c${n}-${scarce.ref}`))
      shared(check, answers, 2, scarcity.refusal)
      check.same(await scarce.counts(), { taken: 2, held: 0 }, 'two of two are taken')
    },
  },
  {
    id: 25,
    from: 'etcd-io/etcd#11456',
    name: 'Redis loses the leases again and again while their holders go on: every row is settled once',
    lockingOnly: NO_LEASE,
    async run({ check, environment, make, scarcity }) {
      const scarce = await make(5)
      const keys = scarce.locked.map(environment.lockOf)
      const lose = setInterval(() => void environment.redis.del(...keys), 3)
      const answers = await environment
        .storm(scarce.lines, () => times(15, (n) => scarce.take(`c${n}-${scarce.ref}`)))
        .finally(() => clearInterval(lose))
      shared(check, answers, 5, scarcity.refusal)
      check.same(await scarce.counts(), { taken: 5, held: 0 }, 'five of five are taken')
    },
  },
]
