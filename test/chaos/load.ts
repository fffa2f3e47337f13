/**
 * The mixed load: new clients arrive at a steady rate, whatever the earlier ones are doing. The seed draws who arrives
 * and what each one wants; what a client does next depends on the answers.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import type { Answer, Ask, Client } from './client.ts'
import { type Seeded, seeded } from './seeded.ts'
import { HOT, type Shelves } from './shelves.ts'

/** Relative frequency of each kind of client. */
const MIX = {
  hot: 26,
  cart: 10,
  wallet: 10,
  card: 9,
  stay: 9,
  ride: 7,
  look: 9,
  limited: 5,
  restock: 4,
  resize: 2,
  lease: 4,
  otherBody: 2,
} as const
type Op = keyof typeof MIX

const CARDS = [
  'tok_visa',
  'tok_visa',
  'tok_mastercard',
  'tok_chargeDeclined',
  'tok_errorOnce',
  'tok_slow',
  'tok_timeout',
  'tok_error',
]
/** Most concurrent clients. Without a limit, clients would pile up in memory during an outage. */
const AT_ONCE = 300
/** Number of days, from 2030-01-01, that can be booked. */
export const DAYS = 240
const day = (n: number) => new Date(Date.UTC(2030, 0, 1 + n)).toISOString().slice(0, 10)

export interface Load {
  /** starts this many clients a second until it is stopped */
  run(per_second: number): Promise<void>
  stop(): void
  /** resolves when all clients have finished */
  over(): Promise<void>
  counts(): { inside: number; came: number; turnedAway: number }
}

export function createLoad(client: Client, shelves: Shelves, seed: number): Load {
  const random = seeded(seed, 'load')
  /** ids in recent answers, each with its path */
  const told: string[] = []
  let came = 0
  let sold = 0
  let turnedAway = 0
  let stopped = false
  const inside = new Set<Promise<void>>()

  const keep = (answer: Answer, path: string): string | undefined => {
    const id = answer.told?.id
    if (id !== undefined && answer.status !== 0) {
      told.push(`${path}/${id}`)
      if (told.length > 300) told.shift()
    }
    return id
  }

  /**
   * Creates a purchase or booking, with or without a key, and waits for the outcome or not. A client with a key may
   * send it twice.
   */
  async function take(
    op: Op,
    n: number,
    path: string,
    body: Record<string, unknown>,
    draw: Seeded,
    keyed = draw.chance(0.6),
  ) {
    const ask: Ask = { op, intent: `${op}-${n}`, method: 'POST', path, body }
    if (keyed) ask.key = `key-${op}-${n}`
    if (draw.chance(0.6)) ask.wait_s = draw.whole(1, 6)
    const twice = keyed && draw.chance(0.15)
    const [answer] = await Promise.all([client.insist(ask), ...(twice ? [client.insist(ask)] : [])])
    if (keyed && draw.chance(0.15)) await client.insist({ ...ask, op: 'again' })
    const id = keep(answer, path)
    return { answer, id }
  }

  async function command(op: Op, n: number, path: string, id: string, verb: string) {
    const key = `key-${verb}-${n}`
    return await client.insist({ op, intent: `${verb}-${n}`, method: 'POST', path: `${path}/${id}/${verb}`, key })
  }

  const PURCHASES = '/api/purchases'
  const BOOKINGS = '/api/bookings'
  const took = ({ status }: Answer) => status === 201 || status === 202 || status === 200

  const ops: Record<Op, (n: number, draw: Seeded) => Promise<unknown>> = {
    async hot(n, draw) {
      const resource = shelves.hot[Math.min(Math.floor(sold++ / HOT.buyers), shelves.hot.length - 1)] ?? ''
      await take('hot', n, PURCHASES, { customer: `hot-${n}`, lines: [{ resource, units: 1 }] }, draw)
    },
    async cart(n, draw) {
      const [a, b] = draw.shuffled(shelves.carts)
      const lines = [
        { resource: a, units: draw.whole(1, 2) },
        { resource: b, units: 1 },
      ]
      if (draw.chance(0.3)) lines.push({ resource: a, units: 1 })
      const body = { customer: `cart-${n}`, lines, ...(draw.chance(0.3) && { hold_seconds: 2 }) }
      const { id } = await take('cart', n, PURCHASES, body, draw)
      if (id !== undefined && draw.chance(0.3))
        await command('cart', n, PURCHASES, id, draw.pick(['confirm', 'cancel', 'refund']))
    },
    async wallet(n, draw) {
      const payment = { method: 'wallet', account: draw.pick(shelves.wallets) }
      const lines = [{ resource: shelves.snack, units: draw.whole(1, 5) }]
      const { id } = await take('wallet', n, PURCHASES, { customer: `wallet-${n}`, lines, payment }, draw)
      if (id !== undefined && draw.chance(0.2))
        await command('wallet', n, PURCHASES, id, draw.pick(['cancel', 'refund']))
    },
    async card(n, draw) {
      const payment = { method: 'card', token: draw.pick(CARDS) }
      const lines = [{ resource: draw.pick(shelves.shows), units: 1 }]
      const hold = draw.chance(0.4)
      const body = { customer: `card-${n}`, lines, payment, ...(hold && { hold_seconds: draw.whole(1, 4) }) }
      const { id } = await take('card', n, PURCHASES, body, draw)
      if (id === undefined) return
      if (hold) {
        await sleep(draw.whole(0, 2_500))
        if (draw.chance(0.8)) await command('card', n, PURCHASES, id, 'confirm')
      }
      if (draw.chance(0.25)) await command('card', n, PURCHASES, id, draw.pick(['cancel', 'refund']))
    },
    async stay(n, draw) {
      const from = draw.whole(0, DAYS - 5)
      const payment = draw.pick([
        { method: 'none' },
        { method: 'none' },
        { method: 'wallet', account: draw.pick(shelves.wallets) },
        { method: 'card', token: draw.pick(CARDS) },
      ])
      const hold = draw.chance(0.3)
      const body = {
        resource: draw.pick(shelves.properties),
        customer: `stay-${n}`,
        from: day(from),
        to: day(from + draw.whole(1, 4)),
        payment,
        ...(hold && { hold_seconds: draw.whole(1, 4) }),
      }
      const { id, answer } = await take('stay', n, BOOKINGS, body, draw)
      if (id === undefined || !took(answer)) return
      if (hold && draw.chance(0.7)) await command('stay', n, BOOKINGS, id, draw.pick(['accept', 'accept', 'decline']))
      if (draw.chance(0.7)) await command('stay', n, BOOKINGS, id, draw.pick(['cancel', 'cancel', 'complete']))
    },
    async ride(n, draw) {
      const place = { pickup_lat: 52.5, pickup_lng: 13.4 }
      const driver_id = draw.pick(shelves.drivers).replace('driver:', '')
      // Two of three riders request several rides, possibly at once.
      const rider_id = draw.chance(0.7) ? `rider-${draw.whole(1, 8)}` : `ride-${n}`
      const { id, answer } = await take('ride', n, BOOKINGS, { driver_id, rider_id, ...place }, draw, true)
      if (id === undefined || !took(answer) || draw.chance(0.15)) return
      const first = await command(
        'ride',
        n,
        BOOKINGS,
        id,
        draw.pick(['accept', 'accept', 'accept', 'decline', 'cancel']),
      )
      if (first.told?.status === 'accepted')
        await command('ride', n, BOOKINGS, id, draw.pick(['complete', 'complete', 'cancel']))
    },
    async look(n, draw) {
      if (told.length > 0) await client.ask({ op: 'look', intent: `look-${n}`, method: 'GET', path: draw.pick(told) })
    },
    async limited(n, draw) {
      const customer = `fan-${draw.whole(1, 40)}`
      const body = { customer, lines: [{ resource: shelves.limited, units: 1 }] }
      const { id } = await take('limited', n, PURCHASES, body, draw, true)
      if (id !== undefined && draw.chance(0.2)) await command('limited', n, PURCHASES, id, 'refund')
    },
    async restock(n, draw) {
      const ref = draw.pick([...shelves.carts, ...shelves.wallets, ...shelves.shows, shelves.limited])
      const delta = draw.chance(0.75) ? draw.whole(5, ref.startsWith('account') ? 400 : 25) : -draw.whole(1, 5)
      const path = `/api/resources/${ref.replace(':', '/')}/restock`
      const body = { delta, reason: `restock ${n}` }
      await client.insist({
        op: 'restock',
        intent: `restock-${n}`,
        method: 'POST',
        path,
        body,
        key: `key-restock-${n}`,
      })
    },
    async resize(n, draw) {
      const ref = draw.pick(shelves.carts)
      const path = `/api/resources/${ref.replace(':', '/')}`
      const intent = `resize-${n}`
      const { answer, version } = await client.ask({ op: 'look', intent, method: 'GET', path })
      if (version === undefined) return
      const body = { name: ref, kind: 'units', total: answer.total + draw.whole(1, 5), price: answer.price }
      await client.ask({ op: 'resize', intent, method: 'PUT', path, body, headers: { 'if-match': `"${version}"` } })
    },
    async lease(n, draw) {
      const intent = `lease-${n}`
      const body = {
        resource: `job:${draw.whole(1, 2)}`,
        mode: 'exclusive',
        ttl_ms: 1_000,
        wait_ms: 500,
        owner: intent,
      }
      const { status, answer } = await client.ask({ op: 'lease', intent, method: 'POST', path: '/api/leases', body })
      if (status !== 201) return
      await client.ask({ op: 'release', intent, method: 'DELETE', path: `/api/leases/${answer.lease_id}` })
    },
    async otherBody(n, draw) {
      const body = { customer: `other-${n}`, lines: [{ resource: draw.pick(shelves.carts), units: 1 }] }
      const { id } = await take('otherBody', n, PURCHASES, body, draw, true)
      if (id === undefined) return
      const other = { ...body, lines: [{ resource: shelves.snack, units: 1 }] }
      const ask: Ask = { op: 'otherBody', intent: `otherBody-${n}`, method: 'POST', path: PURCHASES, body: other }
      await client.insist({ ...ask, key: `key-otherBody-${n}` })
    },
  }

  const deck = (Object.keys(MIX) as Op[]).flatMap((op) => Array.from({ length: MIX[op] }, () => op))
  let hand: Op[] = []

  function letIn(): void {
    const n = ++came
    if (hand.length === 0) hand = random.shuffled(deck)
    const op = hand.pop() ?? 'hot'
    // Draw for clients that are turned away too, so that the draws of the others do not change.
    const draw = seeded(random.whole(0, 2 ** 30), op)
    if (inside.size >= AT_ONCE) {
      turnedAway++
      return
    }
    const visit = ops[op](n, draw).then(() => {
      inside.delete(visit)
    })
    inside.add(visit)
  }

  return {
    async run(per_second) {
      const began = performance.now()
      let due = 0
      while (!stopped) {
        for (; due < ((performance.now() - began) * per_second) / 1000; due++) letIn()
        await sleep(20)
      }
    },
    stop() {
      stopped = true
    },
    async over() {
      while (inside.size > 0) await Promise.all(inside)
    },
    counts: () => ({ inside: inside.size, came, turnedAway }),
  }
}
