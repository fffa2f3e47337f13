/**
 * Races on held units: other buyers cannot get them, they never block their own buyer, and once released they stay
 * released.
 */
import { webhook } from '../support/api-client.ts'
import { idOf, type Race, shared, times, won, word } from './race.ts'

export const HELD: readonly Race[] = [
  {
    id: 2,
    from: 'fossasia/eventyay#1359',
    name: 'confirm before the hold ends: settled in queue order, and the units stay sold',
    async run({ check, make, scarcity }) {
      const scarce = await make(1)
      const held = await scarce.take(`holder-${scarce.ref}`, { hold: true })
      const [kept, rivals] = await Promise.all([
        scarce.keep(held.body.id),
        times(5, (n) => scarce.take(`rival${n}-${scarce.ref}`)),
      ])
      check.ok(won(kept), 'the holder has it')
      shared(check, rivals, 0, scarcity.refusal)
      check.same(await scarce.counts(), { taken: 1, held: 0 }, 'one is taken')
    },
  },
  {
    id: 13,
    from: 'woocommerce#67354, spree#14040',
    name: 'buyer at the limit: its own holds do not block its confirms',
    async run({ check, make, scarcity }) {
      const all = scarcity.name === 'drivers' ? 1 : 2
      const scarce = await make(all, { limit: all })
      const held = await times(all, () => scarce.take(`own-${scarce.ref}`, { hold: true }))
      shared(check, held, all, scarcity.refusal)
      shared(check, await Promise.all(held.map((answer) => scarce.keep(idOf(answer)))), all, '')
      check.same(await scarce.counts(), { taken: all, held: 0 }, 'all of it is theirs')
    },
  },
  {
    id: 15,
    from: 'mollie/WooCommerce#1252',
    name: 'confirm after the hold was given up: refused, and no unit is taken again',
    async run({ check, environment, make, scarcity }) {
      const scarce = await make(1)
      const { body } = await scarce.take(`late-${scarce.ref}`, { hold: true })
      check.ok(won(await scarce.giveUp(body.id)), 'it is given up')
      const paid = scarcity.name === 'tickets' ? [webhook(environment.api, 'payment_intent.succeeded', body.id)] : []
      const [rival, late] = await Promise.all([
        scarce.take(`rival-${scarce.ref}`),
        times(4, () => scarce.keep(body.id)),
        ...paid,
      ])
      check.ok(won(rival), 'the next one has it')
      check.same([...new Set(late.map(word))], ['409 wrong_status'], 'who comes late is told so')
      check.same(await scarce.counts(), { taken: 1, held: 0 }, 'and it is taken once')
      check.equal(await scarce.beside(), 1, 'also what goes along with it')
      if (scarcity.name === 'tickets') check.equal(await environment.bank.kept(body.id), 0, 'no money is kept')
    },
  },
  {
    id: 17,
    from: 'cal.diy#10789, cal.diy#29958',
    name: 'overlapping requests: one gets the hold, and one is confirmed',
    async run({ check, make, scarcity }) {
      const scarce = await make(1)
      const asked = await times(5, (n) => scarce.take(`c${n}-${scarce.ref}`, { hold: true }))
      shared(check, asked, 1, scarcity.refusal)
      const answers = await Promise.all(asked.map((answer) => scarce.keep(idOf(answer))))
      shared(check, answers, 1, '409 wrong_status')
      check.same(await scarce.counts(), { taken: 1, held: 0 }, 'one is taken')
    },
  },
  {
    id: 18,
    from: 'cal.diy#23974',
    name: 'unit held by A: B is refused, and gets it after A gives it up',
    async run({ check, make, scarcity }) {
      const scarce = await make(1)
      const held = await scarce.take(`a-${scarce.ref}`, { hold: true })
      const refused = await times(4, (n) => scarce.take(`b-${scarce.ref}`, { hold: n % 2 > 0 }))
      shared(check, refused, 0, scarcity.refusal)
      const named = refused.flatMap(({ body }) => (body.conflicting_ids ?? []) as string[])
      check.same([...new Set(named)], scarcity.refusal === '409 conflict' ? [held.body.id] : [], 'A is named')
      check.ok(won(await scarce.giveUp(held.body.id)), 'A gives it up')
      check.ok(won(await scarce.take(`b-${scarce.ref}`)), 'B has it')
      check.same(await scarce.counts(), { taken: 1, held: 0 }, 'one is taken')
    },
  },
]
