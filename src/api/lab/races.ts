/**
 * Whole races: this process sends the requests of all buyers at once, to the lab's own routes, and answers 200 with every
 * response. The dashboard uses it: a browser sends at most six requests at a time, and writes each refusal into its console as
 * an error. Invariant: the requests pass the same checks as any other, with the key of the caller.
 */
import Type from 'typebox'
import { Problem } from '../../shared/problem.ts'
import { problemResponses, response } from '../http/responses.ts'
import type { TypedApp } from '../http/typed-app.ts'
import { busy, KEYED, Left, notInTime, TAGS } from './response-shapes.ts'

interface Call {
  method: 'GET' | 'POST' | 'PUT'
  url: string
  body?: object
}
interface Reply {
  status: number
  // biome-ignore lint/suspicious/noExplicitAny: bodies of several routes, read by field
  body: any
  took_ms: number
}
type Send = (call: Call) => Promise<Reply>
type Side = 'without-lock' | 'with-lock'

interface Race {
  buyers: number
  prepare(send: Send): Promise<unknown>
  /** the request of buyer `n` */
  buy: Record<Side, (n: number) => Call>
  /** Returns the number that the server has afterwards. */
  left(send: Send, replies: Reply[]): Promise<number>
}

const post = (url: string, body: object = {}): Call => ({ method: 'POST', url, body })
const get = (url: string): Call => ({ method: 'GET', url })

/** A race for one number, on the two routes of a tutorial. */
const counter = (buyers: number, reset: Call, buy: Record<Side, Call>, read: Call, field: string): Race => ({
  buyers,
  prepare: async (send) => succeeded(await send(reset)),
  buy: { 'without-lock': () => buy['without-lock'], 'with-lock': () => buy['with-lock'] },
  left: async (send) => succeeded(await send(read))[field],
})

const RACES = {
  inventory: counter(
    5,
    post('/stock/1/reset', { stock: 1 }),
    { 'without-lock': post('/purchase/without-lock/1'), 'with-lock': post('/purchase/with-lock/1') },
    get('/stock/1'),
    'stock',
  ),
  tickets: counter(
    10,
    post('/reset/1', { total_tickets: 1 }),
    { 'without-lock': post('/book-no-lock/1'), 'with-lock': post('/book-with-lock/1') },
    get('/events/1'),
    'available_tickets',
  ),
  balance: counter(
    10,
    post('/demo/balance/reset'),
    { 'without-lock': post('/demo/race-condition/no-lock'), 'with-lock': post('/demo/race-condition/with-lock') },
    get('/demo/balance'),
    'balance',
  ),
  drivers: drivers(),
}
const NAMES = Object.keys(RACES) as (keyof typeof RACES)[]

/** Two riders, one driver. The side with a lock is `POST /api/bookings` itself. */
function drivers(): Race {
  const ride = { driver_id: 'lab', pickup_lat: 52.52, pickup_lng: 13.405 }
  return {
    buyers: 2,
    async prepare(send) {
      succeeded(await send(post('/demo/drivers/1/reset')))
      // 428: the driver exists already.
      const driver = { name: 'Lab driver', kind: 'calendar' }
      succeeded(await send({ method: 'PUT', url: '/api/resources/driver/lab', body: driver }), 428)
      await releaseDriver(send)
    },
    buy: {
      'without-lock': (n) => post('/demo/drivers/1/request-no-lock', { rider_id: `rider-${n}` }),
      'with-lock': (n) => post('/api/bookings', { ...ride, rider_id: `rider-${n}` }),
    },
    async left(send, replies) {
      return 1 - (Math.max(...replies.map(({ body }) => body.rides ?? 0)) || (await releaseDriver(send)))
    },
  }
}

/** Cancels the requested rides of the lab's driver, and returns their number. */
async function releaseDriver(send: Send): Promise<number> {
  const { data } = succeeded(await send(get('/api/bookings?resource=driver:lab&status=requested')))
  // 409: the ride has ended meanwhile.
  for (const { id } of data) succeeded(await send(post(`/api/bookings/${id}/cancel`)), 409)
  return data.length
}

/** Returns the body. @throws Problem as the route answered it, for a status that is neither a success nor expected */
function succeeded({ status, body }: Reply, ...expected: number[]) {
  if (status < 300 || expected.includes(status)) return body
  throw new Problem(status, body.code ?? 'not_settled', body.detail ?? `${status}`, { retry_after: 1 })
}

const schema = {
  operationId: 'labRace',
  tags: TAGS,
  summary: 'Run a whole race: reset, all buyers at once, and what is left',
  params: Type.Object({
    race: Type.Enum([...NAMES], { examples: ['inventory'] }),
    side: Type.Enum(['without-lock', 'with-lock'], { examples: ['without-lock'] }),
  }),
  response: {
    200: response(
      Type.Object({
        responses: Type.Array(
          Type.Object({
            status: Type.Integer({ description: 'What this buyer was answered; a refusal is 400 or 409' }),
            took_ms: Type.Number({ description: 'Milliseconds from the request to the response' }),
            body: Type.Unknown({ description: 'The body of that response' }),
          }),
          { description: 'One for each buyer' },
        ),
        left: Left,
      }),
      'The race has been run',
    ),
    ...problemResponses(400, busy, 413, 415, notInTime),
  },
}

export function raceRoutes(app: TypedApp): void {
  app.post('/demo/races/:race/:side', { config: KEYED, schema }, async (request) => {
    const { authorization, 'x-api-key': key } = request.headers
    const headers = { prefer: 'wait=10', ...(authorization && { authorization }), ...(key && { 'x-api-key': key }) }
    const send: Send = async ({ method, url, body }) => {
      const began = performance.now()
      const reply = await app.inject({
        method,
        url,
        headers,
        remoteAddress: request.ip,
        ...(body && { payload: body }),
      })
      return { status: reply.statusCode, body: reply.json(), took_ms: performance.now() - began }
    }
    const race: Race = RACES[request.params.race]
    await race.prepare(send)
    const responses = await Promise.all(
      Array.from({ length: race.buyers }, (_, n) => send(race.buy[request.params.side](n))),
    )
    return { responses, left: await race.left(send, responses) }
  })
}
