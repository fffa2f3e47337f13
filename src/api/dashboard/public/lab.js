/**
 * The lab's races, run from this page. Invariant: a result consists of the responses and of the number that the server has
 * afterwards; a variant that could not be measured says so.
 */
import { count, make, setText } from './tables.js'

/** Duration that a full bar shows, in milliseconds, until a buyer takes longer. */
const SCALE_MS = 150

/**
 * A race with two variants of a route; each buyer gets `each` of the `start` units.
 * @param {any} pair
 */
const pair = ({ without, with_lock, body, reset, read, ...race }) => ({
  ...race,
  before: (request) => expect(request('POST', ...reset), 200),
  variants: [without, with_lock].map((path) => ({ buy: (request) => request('POST', path, body) })),
  left: async (request) => (await expect(request('GET', read[0]), 200))[read[1]],
})

const RACES = [
  pair({
    name: 'Stock',
    summary: 'Five buyers, one unit.',
    buyers: 5,
    start: 1,
    each: 1,
    lost: 'oversold',
    label: (left) => `${count(left)} in stock`,
    reset: ['/stock/1/reset', { stock: 1 }],
    without: '/purchase/without-lock/1',
    with_lock: '/purchase/with-lock/1',
    body: { quantity: 1 },
    read: ['/stock/1', 'stock'],
  }),
  pair({
    name: 'Tickets',
    summary: 'Ten buyers, one ticket.',
    buyers: 10,
    start: 1,
    each: 1,
    lost: 'oversold',
    label: (left) => `${count(left)} tickets left`,
    reset: ['/reset/1', { total_tickets: 1 }],
    without: '/book-no-lock/1',
    with_lock: '/book-with-lock/1',
    body: { user_name: 'dashboard' },
    read: ['/events/1', 'available_tickets'],
  }),
  pair({
    name: 'Balance',
    summary: 'Ten payments of 100 from a balance of 1,000.',
    buyers: 10,
    start: 1_000,
    each: 100,
    lost: 'not deducted',
    label: (left) => `${count(left)} left`,
    reset: ['/demo/balance/reset'],
    without: '/demo/race-condition/no-lock',
    with_lock: '/demo/race-condition/with-lock',
    read: ['/demo/balance', 'balance'],
  }),
  {
    name: 'Drivers',
    summary: 'Two riders, one driver.',
    buyers: 2,
    start: 1,
    each: 1,
    lost: 'too many',
    label: (left) => `${count(1 - left)} assigned a ride`,
    async before(request) {
      await expect(request('POST', '/demo/drivers/1/reset'), 200)
      // 428: the resource exists already.
      await expect(request('PUT', '/api/resources/driver/lab', { name: 'Lab driver', kind: 'calendar' }), 201, 428)
      await releaseDriver(request)
    },
    variants: [
      { buy: (request, rider_id) => request('POST', '/demo/drivers/1/request-no-lock', { rider_id }) },
      {
        buy: (request, rider_id) =>
          request('POST', '/api/bookings', { ...PICKUP, driver_id: 'lab', rider_id }, { prefer: 'wait=10' }),
      },
    ],
    async left(request, responses) {
      const rides = responses.map(({ body }) => body.rides ?? 0)
      return 1 - (Math.max(...rides) || (await releaseDriver(request)))
    },
  },
]

const PICKUP = { pickup_lat: 52.52, pickup_lng: 13.405 }

/** Cancels the requested rides of the lab's driver, and returns their number. */
async function releaseDriver(request) {
  const { data } = await expect(request('GET', '/api/bookings?resource=driver:lab&status=requested'), 200)
  for (const { id } of data)
    await expect(request('POST', `/api/bookings/${id}/cancel`, undefined, { prefer: 'wait=10' }), 200, 409)
  return data.length
}

const isGot = ({ status }) => status === 200 || status === 201
/** Returns whether an answer is a refusal: the tutorials report it in `error`, bookings with the code `conflict`. */
const isRefused = ({ body }) => body.error !== undefined || body.code === 'conflict'

async function expect(response, ...statuses) {
  const { status, body } = await response
  if (statuses.includes(status)) return body
  throw new Error(`${status} ${body?.detail ?? body?.error ?? ''}`)
}

/** @param {HTMLElement} place @param {(method: string, path: string, body?: object) => Promise<{status: number, body: any}>} request */
export function createLab(place, request) {
  return {
    draw() {
      place.replaceChildren(...RACES.map((race) => drawRace(race, request)), drawWriters(request), drawQuorum(request))
    },
  }
}

/** Creates a card with its button; a second run starts only after the first run has ended. */
function card(name, summary, label, run) {
  const article = make('article', 'race')
  const title = make('h3', '', name)
  title.id = `race-${name.toLowerCase().replaceAll(' ', '-')}`
  article.setAttribute('aria-labelledby', title.id)
  const button = make('button', '', label)
  button.type = 'button'
  button.setAttribute('aria-describedby', title.id)
  const failed = make('p', 'bad')
  failed.setAttribute('role', 'alert')
  button.addEventListener('click', async () => {
    // Do not set `disabled`: that would move the focus away from the pressed button.
    if (article.getAttribute('aria-busy') === 'true') return
    article.setAttribute('aria-busy', 'true')
    setText(failed, '')
    await run().catch((error) => setText(failed, `Not measured: ${error.message}`))
    article.removeAttribute('aria-busy')
  })
  article.append(title, make('p', 'note', summary), button, failed)
  return article
}

function drawRace(race, request) {
  const variants = race.variants.map((variant, i) => {
    const place = make('div', 'side')
    const buyers = make('div', 'buyers')
    buyers.setAttribute('aria-hidden', 'true')
    const outcome = make('p', 'outcome')
    outcome.setAttribute('role', 'status')
    place.append(make('h4', '', i === 0 ? 'Without lock' : 'With lock'), buyers, outcome)
    return { ...variant, place, buyers, outcome }
  })
  const article = card(race.name, race.summary, 'Race', async () => {
    for (const { buyers, outcome } of variants) {
      buyers.replaceChildren()
      outcome.replaceChildren()
    }
    await race.before(request)
    // Run one variant after the other: the server returns the number of the variant that was used last.
    for (const variant of variants) await runVariant(race, variant, request)
  })
  const both = make('div', 'sides')
  both.append(...variants.map((variant) => variant.place))
  article.append(both)
  return article
}

async function runVariant(race, { buyers, outcome, buy }, request) {
  const began = performance.now()
  const bars = Array.from({ length: race.buyers }, () => {
    const bar = make('i', 'waiting')
    buyers.append(bar)
    return { bar, until: undefined }
  })
  let going = true
  function grow() {
    const now = performance.now() - began
    const scale = Math.max(SCALE_MS, ...bars.map(({ until }) => until ?? now))
    for (const { bar, until } of bars) bar.style.width = `${(100 * (until ?? now)) / scale}%`
    if (going) requestAnimationFrame(grow)
  }
  requestAnimationFrame(grow)
  try {
    const responses = await Promise.all(
      bars.map(async (one) => {
        const response = await buy(request, `rider-${Math.random().toString(36).slice(2)}`)
        one.until = performance.now() - began
        one.bar.className = isGot(response) ? 'got' : 'refused'
        return response
      }),
    )
    for (const response of responses) if (!isRefused(response)) await expect(response, 200, 201)
    const left = await race.left(request, responses)
    const got = responses.filter(isGot).length
    // Successful buyers beyond the stock, or beyond what was deducted: ten may have paid while the balance shows two.
    const wrong = got - Math.min(got, Math.floor(race.start / race.each), (race.start - left) / race.each)
    showOutcome(outcome, `${got} of ${race.buyers} got it, ${race.label(left)}, `, `${wrong} ${race.lost}`, wrong === 0)
  } finally {
    going = false
    grow()
  }
}

function showOutcome(outcome, text, last, right) {
  outcome.replaceChildren(text, make('strong', right ? 'good' : 'bad', last))
}

/** A demonstration whose steps are listed. */
function drawSteps(name, summary, run) {
  const steps = make('ol', 'steps')
  const outcome = make('p', 'outcome')
  outcome.setAttribute('role', 'status')
  const article = card(name, summary, 'Show', async () => {
    steps.replaceChildren()
    outcome.replaceChildren()
    const result = await run()
    steps.append(...result.steps.map((text) => make('li', '', text)))
    showOutcome(outcome, result.text, result.last, result.right)
  })
  article.append(steps, outcome)
  return article
}

const drawWriters = (request) =>
  drawSteps(
    'Stale writer',
    'Three workers acquire one lease in turn; two are paused, and write after theirs has expired.',
    async () => {
      const { workers, order, without_guard, success } = await expect(request('POST', '/demo/fencing/1'), 200)
      return {
        steps: workers.map((one) => `Token ${one.token}, lease ${one.lease}: ${one.outcome}`),
        text: `With fencing tokens worker ${order.written_by} wrote last; without them `,
        last: success ? `worker ${without_guard.written_by} did` : 'and the token check failed',
        right: success && without_guard.written_by === order.written_by,
      }
    },
  )

const drawQuorum = (request) =>
  drawSteps('Quorum', 'A lock on five Redis, with two and then three of them stopped.', async () => {
    const { steps, quorum, success } = await expect(request('POST', '/demo/redlock'), 200)
    return {
      steps: steps.map((one) => `${one.running} of 5 running: ${one.locked ? 'locked' : 'refused'}`),
      text: `A lock needs ${quorum} of 5: `,
      last: success ? 'every step agrees' : 'a step disagrees',
      right: success,
    }
  })
