/** The dashboard in a browser: it says what is wrong and when its data is not live, and its views equal the API's answers. */
import { readFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import type { Page } from 'playwright-core'
import t, { type Test } from 'tap'
import { startApi } from '../../src/api/server.ts'
import { readConfig } from '../../src/shared/config.ts'
import { createLog } from '../../src/shared/log.ts'
import { createMetrics } from '../../src/shared/metrics.ts'
import { openShop, rush } from '../support/api-client.ts'
import { hasBrowser, openBrowser } from '../support/browser.ts'
import { openWorld, until } from '../support/environment.ts'
import { contract } from '../support/openapi-contract.ts'

const skip = !hasBrowser && 'no Chromium here'
const world = await openWorld(t)
// The pause of the unsafe routes is longer than a busy machine needs to begin five requests.
const [api, worker] = await Promise.all([world.startApi({ LAB_PAUSE_MS: '300' }), world.startWorker()])
const call = contract(api.url)
const AXE = readFileSync(fileURLToPath(import.meta.resolve('axe-core/axe.min.js')), 'utf8')
/** Milliseconds within which the page shows a fault, and its end. */
const [SHOWN_MS, GREEN_MS] = [3_000, 5_000]

/** Lines of the browsers' consoles that are errors. */
const errors: string[] = []

/** Opens the page, and keeps the errors in its console that `expected` does not match. */
async function open(t: Test, url: string, expected = /^$/) {
  const browser = await openBrowser(t)
  const page = await browser.newPage({ viewport: { width: 1280, height: 900 }, reducedMotion: 'reduce' })
  page.on('pageerror', (error) => errors.push(error.message))
  page.on('console', (one) => {
    const text = `${one.text()} ${one.location().url}`
    // A busy machine may answer 503, to a race or to a read that takes long.
    if (one.type() === 'error' && !expected.test(text) && !/status of 503/.test(text)) errors.push(text)
  })
  await page.goto(url)
  return page
}

const isState = (page: Page, state: string) => page.waitForSelector(`body[data-state=${state}]`)
const level = (page: Page, name: string, timeout = 30_000) => page.waitForSelector(`.condition.${name}`, { timeout })
const sentence = async (page: Page) => (await page.locator('.condition .sentence').textContent()) ?? ''
async function cells(page: Page, key: string) {
  const row = page.locator(`tr[data-key="${key}"]`)
  await row.waitFor()
  return await row.locator('th, td').allInnerTexts()
}

/** Asserts that the view has no violations of axe's rules, and is as wide as the screen: on a phone in the dark, and on a desk. */
async function accessible(t: Test, page: Page) {
  await page.evaluate(AXE)
  for (const [width, colorScheme] of [
    [390, 'dark'],
    [1280, 'light'],
  ] as const) {
    await page.setViewportSize({ width, height: 900 })
    await page.emulateMedia({ colorScheme })
    const name = `${page.url().replace(/.*#/, '#')} at ${width}, ${colorScheme}`
    t.equal(await page.evaluate('document.documentElement.scrollWidth - innerWidth'), 0, `nothing sticks out: ${name}`)
    const found = "({ violations }) => violations.map(({ id, nodes }) => id + ': ' + nodes[0].html)"
    t.same(await page.evaluate(`axe.run().then(${found})`), [], `axe: ${name}`)
  }
}

t.test('overview, nothing wrong: green, and the figures of the API', { skip }, async (t) => {
  const shop = openShop(t, [api.url], world.env.DATABASE_URL)
  const ref = await shop.units('product', 10)
  for (const more of [{}, {}, { hold_seconds: 600 }]) {
    await shop.insist({ customer: 'ada', lines: [{ resource: ref, units: 1 }], ...more }, { prefer: 'wait=10' })
  }
  const page = await open(t, api.url)
  await isState(page, 'live')
  await level(page, 'green')
  t.match(await sentence(page), /^All systems work/)
  const { available, held, sold, name } = await shop.resource(ref)
  t.same(await cells(page, ref), [`${ref}\n${name}`, '', `${available}`, `${held}`, `${sold}`])
  const { processes } = (await call('GET', '/api/dashboard')).body
  for (const { id } of processes) t.match((await cells(page, id))[0], id)
  await shop.buy({ customer: 'ada', lines: [{ resource: ref, units: 3 }] }, { prefer: 'wait=10' })
  await until(async () => (await cells(page, ref))[4] === `${sold + 3}`, { what: 'the sale to be shown' })
  await accessible(t, page)
})

t.test('worker frozen: red within seconds with the queue that waits, and green again', { skip }, async (t) => {
  const shop = openShop(t, [api.url], world.env.DATABASE_URL)
  const ref = await shop.units('product', 10)
  const page = await open(t, api.url)
  await level(page, 'green')
  worker.kill('SIGSTOP')
  const frozen_ms = performance.now()
  await rush(shop, ref, 3)
  await level(page, 'red')
  const took_ms = performance.now() - frozen_ms
  t.ok(took_ms < SHOWN_MS, `said after ${Math.round(took_ms)} ms`)
  await until(async () => (await sentence(page)).startsWith(ref), { what: 'the queue to be named' })
  t.match(await sentence(page), /has waited \d+ s: no worker answers/)
  t.match(await page.title(), /^Critical: /)
  t.match(await page.locator('.condition [role=status]').textContent(), /^Critical: /, 'and said to screen readers')
  await accessible(t, page)
  worker.kill('SIGCONT')
  const back_ms = performance.now()
  await level(page, 'green')
  const calm_ms = performance.now() - back_ms
  t.ok(calm_ms < GREEN_MS, `green after ${Math.round(calm_ms)} ms`)
  await until(async () => (await shop.queued()) === 0)
})

t.test('purchase: the timeline of the API, and why it waits while it does', { skip }, async (t) => {
  const shop = openShop(t, [api.url], world.env.DATABASE_URL)
  const ref = await shop.units('product', 10)
  worker.kill('SIGSTOP')
  const [first = ''] = await rush(shop, ref, 1)
  const { body } = await shop.buy({ customer: 'ada', lines: [{ resource: ref, units: 1 }], hold_seconds: 600 })
  const page = await open(t, `${api.url}/#/purchases/${body.id}`)
  const why = page.getByRole('region', { name: 'Why is it waiting?' })
  await why.getByText(`It waits in the queue of ${ref}: 1 entry is before it.`).waitFor()
  t.equal(await why.getByRole('link', { name: first }).getAttribute('href'), `#/purchases/${first}`)
  await accessible(t, page)
  worker.kill('SIGCONT')
  await why.getByText('It is held until').waitFor()
  t.equal((await shop.command(body.id, 'confirm', { prefer: 'wait=10' })).status, 200)
  await page.locator('.title .status.confirmed').waitFor()
  const { history } = (await call('GET', `/api/purchases/${body.id}/history`)).body
  const entries = page.locator('.timeline li')
  const shown = () => entries.evaluateAll((all) => all.map(({ dataset }) => ({ at: dataset.at, what: dataset.what })))
  await until(async () => (await entries.count()) === history.length, { what: 'the whole timeline' })
  t.same(
    await shown(),
    history.map(({ at, what }: { at: string; what: string }) => ({ at, what })),
  )
  const { by, fencing_token } = history.find(({ what }: { what: string }) => what === 'confirmed')
  const last = await page.locator('[data-what=confirmed]').textContent()
  for (const text of [by, String(fencing_token), ref]) t.match(last, text)
  t.equal(await why.count(), 0, 'and nothing is waited for')
})

t.test('search: "/" focuses it, and each kind leads to its view', { skip }, async (t) => {
  const shop = openShop(t, [api.url], world.env.DATABASE_URL)
  const [ref, calendar] = [await shop.units('book', 10), await shop.calendar('cabin')]
  const buy = { customer: 'zora', lines: [{ resource: ref, units: 2 }] }
  const { id } = (await shop.insist(buy, { prefer: 'wait=10' })).body
  const stay = { resource: calendar, customer: 'zora', from: '2030-06-01', to: '2030-06-05' }
  const booking = (await shop.book(stay, { prefer: 'wait=10' })).body
  const page = await open(t, api.url)
  await isState(page, 'live')
  const find = async (text: string, kind: string) => {
    await page.keyboard.press('/')
    await page.keyboard.type(text)
    const options = page.getByRole('option')
    await options.first().waitFor()
    const kinds = await options.locator('.kind').allTextContents()
    for (let i = 0; i < kinds.indexOf(kind); i++) await page.keyboard.press('ArrowDown')
    t.equal(await page.getByRole('option', { selected: true }).locator('.kind').textContent(), kind)
    await page.keyboard.press('Enter')
  }
  const views = async (text: string, kind: string, hash: string, title: RegExp) => {
    await find(text, kind)
    await page.getByRole('heading', { level: 1, name: title }).waitFor()
    t.equal(new URL(page.url()).hash, hash, kind)
  }
  await views(id, 'purchase', `#/purchases/${id}`, /^Purchase/)
  await views(booking.id, 'booking', `#/bookings/${booking.id}`, /^Booking/)
  await views('zora', 'customer', '#/customers/zora', /^zora$/)
  t.match(await cells(page, id), [id, `2 × ${ref}`, 'confirmed'])
  await views(ref.slice(0, -1), 'resource', `#/resources/${ref.replace(':', '/')}`, /^book:/)
  t.match((await cells(page, id)).slice(1), ['zora', '2', 'confirmed'])
  const { movements } = (await call('GET', `/api/dashboard/resources/${ref.replace(':', '/')}`)).body
  t.equal(await page.getByRole('table', { name: 'Ledger' }).locator('tbody tr').count(), movements.length)
  await accessible(t, page)
  await page.keyboard.press('/')
  await page.keyboard.type('nothing has this name')
  await page.getByText('Nothing is called “nothing has this name”.').waitFor()
})

t.test('calendar: the days of a stay are booked, those before and after it free', { skip }, async (t) => {
  const shop = openShop(t, [api.url], world.env.DATABASE_URL)
  const ref = await shop.calendar('cabin')
  const day_ms = 86_400_000
  const date = (days: number) => new Date(Date.now() + days * day_ms).toISOString().slice(0, 10)
  const stay = { resource: ref, customer: 'ada', from: date(10), to: date(13) }
  const { body } = await shop.book(stay, { prefer: 'wait=10' })
  const page = await open(t, `${api.url}/#/resources/${ref.replace(':', '/')}`)
  const booked = page.locator('.slot.accepted a')
  await booked.first().waitFor()
  const days = [10, 11, 12].map((days) => String(Number(date(days).slice(8))))
  const shown = (await booked.allTextContents()).map((text) => text.split(',')[0])
  t.same(shown, days)
  t.equal(await booked.first().getAttribute('href'), `#/bookings/${body.id}`)
  t.match((await cells(page, body.id)).slice(1), ['ada', /UTC/, 'accepted'])
  await accessible(t, page)
})

t.test('history: a fault before the page was opened is marked, and still after a reload', { skip }, async (t) => {
  const samples = async () => (await call('GET', '/api/dashboard/history?range=5m')).body.samples
  const isRed = (one: { level: string }) => one.level === 'red'
  worker.kill('SIGSTOP')
  await until(async () => (await samples()).some(isRed), { what: 'a red sample', timeout_ms: 30_000 })
  worker.kill('SIGCONT')
  await until(async () => (await samples()).at(-1)?.level === 'green', { what: 'a green one', timeout_ms: 30_000 })
  const page = await open(t, `${api.url}/#/history/5m`)
  const periods = page.getByRole('table', { name: 'When it was not OK' })
  for (const time of ['at first', 'after a reload']) {
    await periods.getByText('Critical').first().waitFor()
    const { sentence } = (await samples()).findLast(isRed)
    t.match(await periods.textContent(), sentence, time)
    t.equal(await page.locator('.chart canvas').count(), 5, 'throughput, waits, depth, age, errors')
    await page.reload()
  }
  await page.getByRole('link', { name: '24 hours' }).click()
  await page.waitForURL(/#\/history\/24h$/)
  await periods.getByText('Critical').first().waitFor()
  await accessible(t, page)
})

t.test('lab: a race in the browser, without an error line for the buyers that are refused', { skip }, async (t) => {
  const page = await open(t, `${api.url}/#/lab`)
  const title = page.getByRole('heading', { name: 'Stock', exact: true })
  const race = page.locator('article', { has: title })
  const outcome = race.locator('.outcome')
  // A busy machine may answer 503: the page then says that it was not measured.
  const measured = async () => {
    await race.getByRole('button', { name: 'Race' }).press('Enter')
    await page.locator('article:not([aria-busy])', { has: title }).waitFor()
    return (await outcome.nth(1).locator('strong').count()) === 1
  }
  await until(measured, { timeout_ms: 30_000 })
  const [without = '', with_lock] = await outcome.allTextContents()
  const [, got, left, oversold] = /^(\d) of 5 got it, −(\d) in stock, (\d) oversold$/.exec(without.trim()) ?? []
  t.ok(Number(got) > 1 && Number(left) === Number(got) - 1 && oversold === left, without)
  t.equal(with_lock?.trim(), '1 of 5 got it, 0 in stock, 0 oversold')
  t.equal(await race.locator('.outcome strong.bad').textContent(), `${oversold} oversold`)
  t.same((await call('GET', '/stock/1')).body.stock, 0)
  await accessible(t, page)
})

t.test('server frozen or away: the page says since when, and is live again', { skip }, async (t) => {
  const other = await world.startApi()
  // Chromium logs a missing server as an error.
  const page = await open(t, other.url, /ERR_(CONNECTION|EMPTY|INCOMPLETE|NETWORK)/)
  await isState(page, 'live')
  other.kill('SIGSTOP')
  const frozen_ms = performance.now()
  await isState(page, 'lost')
  t.ok(performance.now() - frozen_ms < SHOWN_MS + 1_000, 'within a second of its silence of three')
  t.match(await sentence(page), /^The server has not answered for [3-9] s\.$/)
  t.match(await page.locator('.condition .note').textContent(), /The figures below are from \d\d:\d\d:\d\d\./)
  other.kill('SIGCONT')
  await isState(page, 'live')

  const turn = (hidden: boolean) =>
    page.evaluate(`Object.defineProperty(document, 'hidden', { value: ${hidden}, configurable: true })
      document.dispatchEvent(new Event('visibilitychange'))`)
  await turn(true)
  await page.getByText('Paused while this tab is hidden').first().waitFor()
  await turn(false)
  await isState(page, 'live')

  const { port } = new URL(other.url)
  other.kill('SIGKILL')
  await isState(page, 'lost')
  await world.startApi({ PORT: port })
  await isState(page, 'live')
})

t.test('keys: the page asks before it sends a request, and refuses a wrong key', { skip }, async (t) => {
  const config = readConfig({ ...world.env, API_KEYS: 'user-key', ADMIN_KEYS: 'admin-key', LAB: '0' })
  const one = await startApi({ config, metrics: createMetrics(), log: createLog('silent', 'test') })
  t.teardown(() => one.close())
  const page = await open(t, await one.app.listen({ host: '127.0.0.1', port: 0 }), /status of 401/)
  const asked: string[] = []
  page.on('request', (request) => asked.push(new URL(request.url()).pathname))
  await isState(page, 'asking')
  await accessible(t, page)
  t.same(
    asked.filter((path) => path.startsWith('/api')),
    [],
  )
  await page.getByLabel(/requires a key/).fill('wrong')
  await page.getByRole('button', { name: 'Open' }).click()
  await page.getByText('This key was refused.').waitFor()
  await page.getByLabel(/requires a key/).fill('user-key')
  await page.keyboard.press('Enter')
  await isState(page, 'live')
  t.equal(await page.getByRole('link', { name: 'Lab' }).count(), 0, 'without the lab there is no link to it')
})

t.test('consoles of the browsers: no error in any of these tests', { skip }, async (t) => {
  t.same(errors, [])
})
