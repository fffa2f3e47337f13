/**
 * The lab: races with and without protection. Invariant: a result consists of the responses and of the number that the server
 * has afterwards; a variant that could not be measured says so.
 */
import { count } from '../format.js'
import { useState } from '../hooks.js'
import { request } from '../request.js'
import { html } from '../view.js'

/** Duration that a full bar shows, in milliseconds, unless a buyer takes longer. */
const SCALE_MS = 150

const RACES = [
  {
    name: 'Stock',
    race: 'inventory',
    summary: 'Five buyers, one unit.',
    buyers: 5,
    start: 1,
    each: 1,
    lost: 'oversold',
    label: (left) => `${count(left)} in stock`,
  },
  {
    name: 'Tickets',
    race: 'tickets',
    summary: 'Ten buyers, one ticket.',
    buyers: 10,
    start: 1,
    each: 1,
    lost: 'oversold',
    label: (left) => `${count(left)} tickets left`,
  },
  {
    name: 'Balance',
    race: 'balance',
    summary: 'Ten payments of 100 from a balance of 1,000.',
    buyers: 10,
    start: 1_000,
    each: 100,
    lost: 'not deducted',
    label: (left) => `${count(left)} left`,
  },
  {
    name: 'Drivers',
    race: 'drivers',
    summary: 'Two riders, one driver.',
    buyers: 2,
    start: 1,
    each: 1,
    lost: 'too many',
    label: (left) => `${count(1 - left)} assigned a ride`,
  },
]
const SIDES = [
  ['without-lock', 'Without lock'],
  ['with-lock', 'With lock'],
]

const isGot = ({ status }) => status === 200 || status === 201
/** Returns whether a response is a refusal: the tutorials report it in `error`, bookings with the code `conflict`. */
const isRefused = ({ body }) => body.error !== undefined || body.code === 'conflict'

async function ask(path) {
  const { status, body } = await request('POST', path)
  if (status === 200) return body
  throw new Error(`${status} ${body.detail ?? body.error ?? ''}`)
}

/** Runs one variant. @throws Error when it could not be measured: a buyer got neither the thing nor a refusal */
async function run({ race, start, each, label, lost }, side) {
  const { responses, left } = await ask(`/demo/races/${race}/${side}`)
  const odd = responses.find((one) => !isGot(one) && !isRefused(one))
  if (odd) throw new Error(`${odd.status} ${odd.body.detail ?? ''}`)
  const got = responses.filter(isGot).length
  // Successful buyers beyond the stock, or beyond what was deducted: ten may have paid while the balance shows two.
  const wrong = got - Math.min(got, Math.floor(start / each), (start - left) / each)
  return {
    responses,
    text: `${got} of ${responses.length} got it, ${label(left)}, `,
    last: `${wrong} ${lost}`,
    right: wrong === 0,
  }
}

export function LabPage() {
  return html`
    <div class="title"><h1>The lab</h1></div>
    <p class="intro">The same race twice: without protection, on the lab's own tables, and on the path of every purchase. Each bar is one buyer, from the
      request to the response; a bright bar got it.</p>
    <div class="races">
      ${RACES.map((race) => html`<${Race} key=${race.name} race=${race} />`)}
      <${Steps} name="Stale writer" summary="Three workers acquire one lease in turn; two are paused, and write after theirs has expired." run=${staleWriter} />
      <${Steps} name="Quorum" summary="A lock on five Redis, with two and then three of them stopped." run=${quorum} />
    </div>`
}

/** A card with its button; a second run starts only after the first run has ended. */
function Card({ name, summary, label, run, children }) {
  const [busy, setBusy] = useState(false)
  const [failed, setFailed] = useState('')
  const id = `race-${name.toLowerCase().replaceAll(' ', '-')}`
  async function start() {
    // Do not set `disabled`: that would move the focus away from the pressed button.
    if (busy) return
    setBusy(true)
    setFailed('')
    await run().catch((error) => setFailed(`Not measured: ${error.message}`))
    setBusy(false)
  }
  return html`
    <article class="race panel" aria-labelledby=${id} aria-busy=${busy ? 'true' : undefined}>
      <div class="panel-head"><h2 id=${id}>${name}</h2><button type="button" aria-describedby=${id} onClick=${start}>${label}</button></div>
      <p class="note">${summary}</p>
      <p class="bad" role="alert">${failed}</p>
      ${children}
    </article>`
}

function Race({ race }) {
  const [sides, setSides] = useState({})
  async function runBoth() {
    setSides({})
    // One variant after the other: the server returns the number of the variant that was used last.
    for (const [side] of SIDES) {
      setSides((before) => ({ ...before, [side]: 'running' }))
      try {
        const result = await run(race, side)
        setSides((before) => ({ ...before, [side]: result }))
      } catch (error) {
        setSides((before) => ({ ...before, [side]: undefined }))
        throw error
      }
    }
  }
  return html`
    <${Card} name=${race.name} summary=${race.summary} label="Race" run=${runBoth}>
      <div class="sides">
        ${SIDES.map(
          ([side, title]) => html`
          <div key=${side}><h3>${title}</h3><${Buyers} buyers=${race.buyers} state=${sides[side]} /><${Outcome} result=${sides[side] === 'running' ? undefined : sides[side]} /></div>`,
        )}
      </div>
    <//>`
}

function Buyers({ buyers, state }) {
  if (state === undefined) return html`<div class="buyers" aria-hidden="true"></div>`
  const responses = state === 'running' ? Array(buyers).fill(undefined) : state.responses
  const scale = Math.max(SCALE_MS, ...responses.map((one) => one?.took_ms ?? 0))
  const bar = (one) =>
    html`<i class=${!one ? 'waiting' : isGot(one) ? 'got' : 'refused'} style=${{ width: one ? `${Math.max(2, (100 * one.took_ms) / scale)}%` : '100%' }}></i>`
  return html`<div class="buyers" aria-hidden="true">${responses.map(bar)}</div>`
}

const Outcome = ({ result }) => html`
  <p class="outcome" role="status">${result && html`${result.text}<strong class=${result.right ? 'good' : 'bad'}>${result.last}</strong>`}</p>`

/** A demonstration whose steps are listed. */
function Steps({ name, summary, run }) {
  const [result, setResult] = useState(undefined)
  async function show() {
    setResult(undefined)
    setResult(await run())
  }
  return html`
    <${Card} name=${name} summary=${summary} label="Show" run=${show}>
      <ol class="steps">${result?.steps.map((step) => html`<li>${step}</li>`)}</ol>
      <${Outcome} result=${result} />
    <//>`
}

async function staleWriter() {
  const { workers, order, without_guard, success } = await ask('/demo/fencing/1')
  return {
    steps: workers.map((one) => `Token ${one.token}, lease ${one.lease}: ${one.outcome}`),
    text: `With fencing tokens worker ${order.written_by} wrote last; without them `,
    last: success ? `worker ${without_guard.written_by} did` : 'and the token check failed',
    right: success && without_guard.written_by === order.written_by,
  }
}

async function quorum() {
  const { steps, quorum, success } = await ask('/demo/redlock')
  return {
    steps: steps.map((one) => `${one.running} of 5 running: ${one.locked ? 'locked' : 'refused'}`),
    text: `A lock needs ${quorum} of 5: `,
    last: success ? 'every step agrees' : 'a step disagrees',
    right: success,
  }
}
