/** Races of repeated messages: one intent has one effect, whoever sends it and however often. */
import { tally, webhook } from '../support/api-client.ts'
import { type Race, shared, times, won, word } from './race.ts'

export const ONCE: readonly Race[] = [
  {
    id: 7,
    from: 'medusa#13301',
    name: 'confirm and webhook of one payment, in any order: settled once',
    not: Object.fromEntries(
      (['stock', 'drivers', 'date ranges', 'balances'] as const).map((name) => [name, 'no provider sends word of it']),
    ),
    async run({ check, environment, make }) {
      const orders = [
        ['webhook', 'confirm', 'webhook', 'confirm'],
        ['confirm', 'webhook', 'confirm', 'webhook'],
        ['confirm', 'confirm', 'webhook', 'webhook'],
        ['webhook', 'webhook', 'confirm', 'confirm'],
      ]
      const scarce = await make(orders.length)
      await Promise.all(
        orders.map(async (order) => {
          const { body } = await scarce.take('ada', { hold: true })
          const said = await Promise.all(
            order.map((step) =>
              step === 'confirm' ? scarce.keep(body.id) : webhook(environment.api, 'payment_intent.succeeded', body.id),
            ),
          )
          const bad = said.filter(({ status, body }) => status !== 200 && body.code !== 'wrong_status')
          check.same(bad, [], `${order.join(', ')}: no answer reports a failure`)
          await webhook(environment.api, 'payment_intent.amount_capturable_updated', body.id)
          await environment.shop.charged()
          check.equal((await environment.bank.of(body.id)).length, 1, 'one charge')
        }),
      )
      check.same(await scarce.counts(), { taken: orders.length, held: 0 }, 'each ticket is sold')
      check.equal(await scarce.beside(), orders.length, 'and paid once')
    },
  },
  {
    id: 9,
    from: 'spree#3808, openfoodnetwork#4018',
    name: 'repeated clicks on “pay” for the last unit: sold once',
    async run({ check, environment, make, scarcity }) {
      const scarce = await make(1)
      const { body } = await scarce.take(`ada-${scarce.ref}`, { hold: true })
      const clicks = await times(6, () => scarce.keep(body.id))
      const wins = clicks.filter(won).length
      // A click that comes during the card charge joins the first one; a later click gets the finished outcome.
      check.ok(scarcity.name === 'tickets' ? wins >= 1 : wins === 1, `${wins} of 6 clicks did it`)
      const late = clicks.filter((answer) => !won(answer))
      const told = late.map((answer) => `${word(answer)}: ${answer.body.current_status}`)
      check.same([...new Set(told)], wins < 6 ? [`409 wrong_status: ${scarcity.kept}`] : [], 'the others find it done')
      check.same(await scarce.counts(), { taken: 1, held: 0 }, 'one is taken')
      check.equal(await scarce.beside(), 1, 'and paid once')
      if (scarcity.name === 'tickets') check.equal((await environment.bank.of(body.id)).length, 1, 'one charge')
    },
  },
  {
    id: 11,
    from: 'hyperswitch#13182',
    name: 'fifty refunds at once: unit and money come back once',
    not: { drivers: 'a ride is not paid through us' },
    async run({ check, environment, make, scarcity }) {
      const scarce = await make(3)
      const [one] = await times(2, () => scarce.take(`ada-${scarce.ref}`))
      const id = one?.body.id
      const answers = await times(50, () => scarce.giveBack(id))
      shared(check, answers, 1, '409 wrong_status')
      check.same(await scarce.counts(), { taken: 1, held: 0 }, 'the other one is still taken')
      check.equal(await scarce.beside(), 1, 'and paid')
      if (scarcity.name !== 'tickets') return
      check.equal(await environment.bank.kept(id), 0, 'the provider has nothing of it')
      check.ok(
        (await environment.bank.refunds(id)).length <= 1,
        'one refund at most: the money may not have been taken yet',
      )
    },
  },
  {
    id: 14,
    from: 'woocommerce#62659, shopware#19943',
    name: 'two tabs send one cart to two API processes: one order',
    async run({ check, make }) {
      const scarce = await make(2)
      const wish = { hold: true, key: `cart-${scarce.ref}`, place: 1 }
      const answers = await times(8, () => scarce.take(`ada-${scarce.ref}`, wish))
      check.same(Object.values(tally(answers)), [8], 'every tab is told the same')
      check.equal(new Set(answers.map((answer) => answer.body.id)).size, 1, 'one order')
      check.same(await scarce.counts(), { taken: 0, held: 1 }, 'one is set aside')
    },
  },
]
