/**
 * The lab's races, run from this page. Invariant: what is told of a race are the answers that came and the number that the
 * server has afterwards; a side that could not be measured says so.
 */
import { count, make, say } from './tables.js'

/** Milliseconds that a buyer's bar is drawn against until some buyer takes longer. */
const SCALE_MS = 150

/**
 * With both routes of a pair; `each` is what one buyer takes of what there is at the `start`.
 * @param {any} pair
 */
const pair = ({ without, with_lock, body, reset, read, ...race }) => ({
  ...race,
  before: (ask) => expect(ask('POST', ...reset), 200),
  sides: [without, with_lock].map((path) => ({ buy: (ask) => ask('POST', path, body) })),
  left: async (ask) => (await expect(ask('GET', read[0]), 200))[read[1]],
})

const RACES = [
  pair({
    name: 'Stock',
    says: 'Five buyers want the last unit.',
    buyers: 5,
    start: 1,
    each: 1,
    lost: 'oversold',
    told: (left) => `${count(left)} in stock`,
    reset: ['/stock/1/reset', { stock: 1 }],
    without: '/purchase/without-lock/1',
    with_lock: '/purchase/with-lock/1',
    body: { quantity: 1 },
    read: ['/stock/1', 'stock'],
  }),
  pair({
    name: 'Tickets',
    says: 'Ten buyers want the only ticket.',
    buyers: 10,
    start: 1,
    each: 1,
    lost: 'oversold',
    told: (left) => `${count(left)} tickets left`,
    reset: ['/reset/1', { total_tickets: 1 }],
    without: '/book-no-lock/1',
    with_lock: '/book-with-lock/1',
    body: { user_name: 'dashboard' },
    read: ['/events/1', 'available_tickets'],
  }),
  pair({
    name: 'Balance',
    says: 'Ten payments of 100 from a balance of 1,000.',
    buyers: 10,
    start: 1_000,
    each: 100,
    lost: 'not taken off',
    told: (left) => `${count(left)} left`,
    reset: ['/demo/balance/reset'],
    without: '/demo/race-condition/no-lock',
    with_lock: '/demo/race-condition/with-lock',
    read: ['/demo/balance', 'balance'],
  }),
  {
    name: 'Drivers',
    says: 'Two riders want one driver.',
    buyers: 2,
    start: 1,
    each: 1,
    lost: 'too many',
    told: (left) => `${count(1 - left)} promised a ride`,
    async before(ask) {
      await expect(ask('POST', '/demo/drivers/1/reset'), 200)
      // 428: it is there already.
      await expect(ask('PUT', '/api/resources/driver/lab', { name: 'Lab driver', kind: 'calendar' }), 201, 428)
      await releaseDriver(ask)
    },
    sides: [
      { buy: (ask, rider_id) => ask('POST', '/demo/drivers/1/request-no-lock', { rider_id }) },
      {
        buy: (ask, rider_id) =>
          ask('POST', '/api/bookings', { ...PICKUP, driver_id: 'lab', rider_id }, { prefer: 'wait=10' }),
      },
    ],
    async left(ask, answers) {
      const rides = answers.map(({ body }) => body.rides ?? 0)
      return 1 - (Math.max(...rides) || (await releaseDriver(ask)))
    },
  },
]

const PICKUP = { pickup_lat: 52.52, pickup_lng: 13.405 }

/** Cancels the rides that wait for the lab's driver, and says how many there were. */
async function releaseDriver(ask) {
  const { data } = await expect(ask('GET', '/api/bookings?resource=driver:lab&status=requested'), 200)
  for (const { id } of data)
    await expect(ask('POST', `/api/bookings/${id}/cancel`, undefined, { prefer: 'wait=10' }), 200, 409)
  return data.length
}

const isGot = ({ status }) => status === 200 || status === 201
/** The tutorials say why with `error`, a booking with its code. */
const isRefused = ({ body }) => body.error !== undefined || body.code === 'conflict'

async function expect(answer, ...statuses) {
  const { status, body } = await answer
  if (statuses.includes(status)) return body
  throw new Error(`${status} ${body?.detail ?? body?.error ?? ''}`)
}

/** @param {HTMLElement} place @param {(method: string, path: string, body?: object) => Promise<{status: number, body: any}>} ask */
export function createLab(place, ask) {
  return {
    draw() {
      place.replaceChildren(...RACES.map((race) => drawRace(race, ask)), drawWriters(ask), drawQuorum(ask))
    },
  }
}

/** A card with its button; while `run` is under way there is no second one. */
function card(name, says, label, run) {
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
    // Not `disabled`: that would take the focus away from whoever pressed it.
    if (article.getAttribute('aria-busy') === 'true') return
    article.setAttribute('aria-busy', 'true')
    say(failed, '')
    await run().catch((error) => say(failed, `Not measured: ${error.message}`))
    article.removeAttribute('aria-busy')
  })
  article.append(title, make('p', 'note', says), button, failed)
  return article
}

function drawRace(race, ask) {
  const sides = race.sides.map((side, i) => {
    const place = make('div', 'side')
    const buyers = make('div', 'buyers')
    buyers.setAttribute('aria-hidden', 'true')
    const outcome = make('p', 'outcome')
    outcome.setAttribute('role', 'status')
    place.append(make('h4', '', i === 0 ? 'Without lock' : 'With lock'), buyers, outcome)
    return { ...side, place, buyers, outcome }
  })
  const article = card(race.name, race.says, 'Race', async () => {
    for (const { buyers, outcome } of sides) {
      buyers.replaceChildren()
      outcome.replaceChildren()
    }
    await race.before(ask)
    // One side after the other: the server tells the number of the side that was used last.
    for (const side of sides) await runSide(race, side, ask)
  })
  const both = make('div', 'sides')
  both.append(...sides.map((side) => side.place))
  article.append(both)
  return article
}

async function runSide(race, { buyers, outcome, buy }, ask) {
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
    const answers = await Promise.all(
      bars.map(async (one) => {
        const answer = await buy(ask, `rider-${Math.random().toString(36).slice(2)}`)
        one.until = performance.now() - began
        one.bar.className = isGot(answer) ? 'got' : 'refused'
        return answer
      }),
    )
    for (const answer of answers) if (!isRefused(answer)) await expect(answer, 200, 201)
    const left = await race.left(ask, answers)
    const got = answers.filter(isGot).length
    // Who got it, beyond what there was and beyond what was taken off: ten may have paid, and the balance know of two.
    const wrong = got - Math.min(got, Math.floor(race.start / race.each), (race.start - left) / race.each)
    tell(outcome, `${got} of ${race.buyers} got it, ${race.told(left)}, `, `${wrong} ${race.lost}`, wrong === 0)
  } finally {
    going = false
    grow()
  }
}

function tell(outcome, text, last, right) {
  outcome.replaceChildren(text, make('strong', right ? 'good' : 'bad', last))
}

/** A demonstration whose steps are told line by line. */
function drawSteps(name, says, run) {
  const steps = make('ol', 'steps')
  const outcome = make('p', 'outcome')
  outcome.setAttribute('role', 'status')
  const article = card(name, says, 'Show', async () => {
    steps.replaceChildren()
    outcome.replaceChildren()
    const told = await run()
    steps.append(...told.steps.map((text) => make('li', '', text)))
    tell(outcome, told.text, told.last, told.right)
  })
  article.append(steps, outcome)
  return article
}

const drawWriters = (ask) =>
  drawSteps(
    'Stale writer',
    'Three workers take one lease in turn; two of them stall, and write when it is over.',
    async () => {
      const { workers, order, without_guard, success } = await expect(ask('POST', '/demo/fencing/1'), 200)
      return {
        steps: workers.map((one) => `Token ${one.token}, lease ${one.lease}: ${one.outcome}`),
        text: `With the fence, worker ${order.written_by} has the last word; without it, `,
        last: success ? `worker ${without_guard.written_by} has` : 'and the fence did not hold',
        right: success && without_guard.written_by === order.written_by,
      }
    },
  )

const drawQuorum = (ask) =>
  drawSteps('Quorum', 'A lock on five Redis, of which two and then three are stopped.', async () => {
    const { steps, quorum, success } = await expect(ask('POST', '/demo/redlock'), 200)
    return {
      steps: steps.map((one) => `${one.running} of 5 running: ${one.locked ? 'locked' : 'refused'}`),
      text: `A lock needs ${quorum} of 5: `,
      last: success ? 'it held to that' : 'it did not hold to that',
      right: success,
    }
  })
