/**
 * `npm run pictures`: takes the pictures of README.md and docs/ in Chromium. Invariant: each picture shows the real pages of
 * real processes in a state that this command has made; it ends all that it has started, also what it has frozen.
 */
import { mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import type { Browser, Page } from 'playwright-core'
import { hasBrowser, openBrowser } from '../../test/support/browser.ts'
import { fromBundle, type Owned, openWorld, type Running, type Scope } from '../../test/support/environment.ts'
import { startChild } from '../dev/child-process.mjs'
import { ROOT } from '../dev/install.mjs'
import { readOptions } from './pictures-options.mjs'

const { only, out } = readOptions()
const log = (line: string) => process.stdout.write(`pictures: ${line}\n`)

const DESK = { width: 1200, height: 900 }
/** shows a whole view */
const TALL = { width: 1200, height: 1_500 }
const PHONE = { width: 390, height: 844 }
/** Time limit of a state, in milliseconds: a busy machine needs a multiple of the usual seconds. */
const STATE_MS = 60_000
/** Milliseconds until a view has its figures and has drawn them: two snapshots of the stream. */
const DRAWN_MS = 2_500
/** Purchases per second of the sale: two cores do it beside a browser. */
const RATE = 150
/** Milliseconds of the sale before its picture: a fifth of the chart's five minutes. */
const SALE_MS = 60_000
/** Quality of WebP, of 100. Text stays sharp, and a picture has about 50 KB. */
const QUALITY = 85

interface Studio {
  api: Running
  worker: Running
  redis: Owned
  postgres: Owned
  browser: Browser
  /** the overview, open all the time: the API measures the last five minutes only while a page is open */
  overview: Page
}

async function openStudio(t: Scope): Promise<Studio> {
  // ops/dev/test.mjs has said why there is none.
  if (!hasBrowser) throw new Error('a browser is needed')
  const world = await openWorld(t)
  const [redis, postgres] = [await world.ownRedis(), await world.ownPostgres()]
  const env = { REDIS_URL: redis.url, DATABASE_URL: postgres.url, REDIS_PREFIX: '' }
  const seed = startChild([process.execPath, ...fromBundle('ops/commands/seed.ts')], {
    cwd: ROOT,
    env: { ...world.env, ...env },
    stdio: 'ignore',
  })
  const how = await seed.exited
  if (how !== 'code 0') throw new Error(`the samples could not be loaded: ${how}`)
  const { url: SANDBOX_URL } = await world.startSandbox()
  const more = { ...env, SANDBOX_URL, LAB_PAUSE_MS: '100' }
  const [api, worker] = await Promise.all([world.startApi(more), world.startWorker(more)])
  const browser = await openBrowser(t)
  const overview = await browser.newPage()
  await overview.goto(api.url)
  return { api, worker, redis, postgres, browser, overview }
}

const level = (page: Page, name: string) => page.waitForSelector(`.condition.${name}`, { timeout: STATE_MS })

interface View {
  path?: string
  size?: { width: number; height: number }
  dark?: boolean
  /** brings the page into its state */
  ready?(page: Page): Promise<unknown>
}

/** Opens a page, waits for its state, and writes its picture. */
async function take({ api, browser }: Studio, name: string, { path = '/', size = DESK, dark = false, ready }: View) {
  if (!only.has(name)) return
  const page = await browser.newPage({
    viewport: size,
    deviceScaleFactor: size === PHONE ? 2 : 1,
    colorScheme: dark ? 'dark' : 'light',
    reducedMotion: 'reduce',
  })
  await page.goto(`${api.url}${path}`)
  await ready?.(page)
  await sleep(DRAWN_MS)
  // Without the empty space below a short view.
  const bottom = Number(await page.evaluate('Math.ceil(document.body.getBoundingClientRect().bottom)'))
  const clip = { x: 0, y: 0, scale: size === PHONE ? 2 : 1, width: size.width, height: Math.min(size.height, bottom) }
  const session = await page.context().newCDPSession(page)
  const { data } = await session.send('Page.captureScreenshot', { format: 'webp', quality: QUALITY, clip })
  const file = join(out, `${name}.webp`)
  writeFileSync(file, Buffer.from(data, 'base64'))
  await page.close()
  log(`${file} (${Math.round((data.length * 0.75) / 1024)} KB)`)
}

async function send(url: string, method: string, path: string, body: object, headers: Record<string, string> = {}) {
  const response = await fetch(`${url}${path}`, {
    method,
    headers: { 'content-type': 'application/json', ...headers },
    body: JSON.stringify(body),
  })
  // biome-ignore lint/suspicious/noExplicitAny: the id alone is read
  return (await response.json()) as any
}

/** Sells event:2 until the returned function is called. */
function startSale(url: string): () => Promise<void> {
  const buyers = new Set<Promise<unknown>>()
  let customer = 0
  const timer = setInterval(() => {
    for (let i = 0; i < RATE / 10; i++) {
      const body = { customer: `customer-${++customer}`, lines: [{ resource: 'event:2', units: 1 }] }
      const buyer = send(url, 'POST', '/api/purchases', body).catch(() => undefined)
      buyers.add(buyer)
      void buyer.finally(() => buyers.delete(buyer))
    }
  }, 100)
  return async () => {
    clearInterval(timer)
    await Promise.all(buyers)
  }
}

/** A shop with a past: units sold and held, nights booked, a card charged. Returns a purchase that has a whole timeline. */
async function stock({ api: { url } }: Studio): Promise<string> {
  const price = { amount: 6_500, currency: 'USD' }
  await send(url, 'PUT', '/api/resources/event/2', { name: 'Open-air concert', kind: 'units', total: 20_000, price })
  const waits = { prefer: 'wait=20' }
  for (const [resource, units, more] of [
    ['product:1', 3, {}],
    ['product:3', 4, { hold_seconds: 900 }],
    ['event:1', 38, {}],
  ] as const) {
    await send(url, 'POST', '/api/purchases', { customer: 'ada', lines: [{ resource, units }], ...more }, waits)
  }
  const from = (days: number) => new Date(Date.now() + days * 86_400_000).toISOString().slice(0, 10)
  for (const [customer, first, last] of [
    ['ada', 1, 4],
    ['grace', 4, 6],
    ['linus', 9, 14],
    ['barbara', 20, 23],
  ] as const) {
    const body = { resource: 'property:42', customer, from: from(first), to: from(last) }
    await send(url, 'POST', '/api/bookings', body, waits)
  }
  const lines = [{ resource: 'product:2', units: 1 }]
  const paid = { customer: 'grace', lines, payment: { method: 'card', token: 'tok_visa' }, hold_seconds: 900 }
  const { id } = await send(url, 'POST', '/api/purchases', paid, waits)
  await send(url, 'POST', `/api/purchases/${id}/confirm`, {}, waits)
  return id
}

/** Pictures of a system that works. */
async function takeCalm(studio: Studio): Promise<void> {
  const id = await stock(studio)
  const green = (page: Page) => level(page, 'green')
  const end = startSale(studio.api.url)
  try {
    if (only.has('sale') || only.has('phone')) await sleep(SALE_MS)
    await take(studio, 'sale', { size: TALL })
    await take(studio, 'phone', { size: PHONE, dark: true })
  } finally {
    await end()
  }
  await take(studio, 'calm', { ready: green })
  await take(studio, 'purchase', { path: `/#/purchases/${id}`, size: TALL, ready: green })
  await take(studio, 'resource', { path: '/#/resources/event/2', ready: green })
  await take(studio, 'calendar', { path: '/#/resources/property/42', size: TALL, ready: green })
  await take(studio, 'lab', {
    path: '/#/lab',
    size: TALL,
    async ready(page) {
      await page.waitForSelector('.race')
      // One after the other, so that a race has the machine for itself.
      for (const button of await page.locator('.race button').all()) {
        await button.click()
        await page.locator('.race[aria-busy]').waitFor({ state: 'hidden', timeout: STATE_MS })
      }
    },
  })
  await take(studio, 'api', { path: '/docs/', ready: (page) => page.waitForSelector('.opblock') })
}

/**
 * Pictures of faults, each healed before the next, and of their history. A fault lasts for more than ten seconds, so that one
 * sample of the history is within it.
 */
async function takeFaults(studio: Studio): Promise<void> {
  const { api, worker, redis, postgres, overview } = studio
  const red = (sentence: RegExp) => (page: Page) =>
    page.locator('.condition.red').filter({ hasText: sentence }).waitFor({ timeout: STATE_MS })
  const lines = [{ resource: 'product:3', units: 1 }]
  worker.kill('SIGSTOP')
  for (const customer of ['ada', 'grace', 'linus']) await send(api.url, 'POST', '/api/purchases', { customer, lines })
  await take(studio, 'frozen-worker', { ready: red(/product:3 has waited 1\d s: no worker answers/) })
  await take(studio, 'jobs', { path: '/admin/queues/queue/purchases?status=waiting' })
  worker.kill('SIGCONT')
  await level(overview, 'green')
  await redis.stop('SIGSTOP')
  await take(studio, 'redis-frozen', { ready: red(/Redis has not answered for 1\d s/) })
  await redis.stop('SIGCONT')
  await level(overview, 'green')
  // A fast shutdown: SIGTERM would wait for the API's connections.
  await postgres.stop('SIGINT')
  await take(studio, 'postgres-stopped', { ready: red(/Postgres has not answered for 1\d s/) })
  await postgres.restart()
  await level(overview, 'green')
  await take(studio, 'history', {
    path: '/#/history/5m',
    size: TALL,
    ready: (page) => page.getByText('Postgres has not answered').first().waitFor({ timeout: STATE_MS }),
  })
}

const steps: (() => Promise<void>)[] = []
try {
  mkdirSync(out, { recursive: true })
  const studio = await openStudio({ name: 'pictures', teardown: (step) => void steps.unshift(step) })
  await takeCalm(studio)
  await takeFaults(studio)
} finally {
  for (const step of steps) await step()
}
