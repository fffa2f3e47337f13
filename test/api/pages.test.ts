/** The pages that come from packages, in Chromium: Swagger UI and Bull Board in our colours, and nothing from outside. */
import { readFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import t, { type Test } from 'tap'
import { openShop } from '../support/api-client.ts'
import { hasBrowser, openBrowser } from '../support/browser.ts'
import { openWorld } from '../support/environment.ts'

/** Returns a page and what must stay empty: errors that it has logged, and requests that left our origin. */
async function openPage(t: Test, origin: string, colorScheme: 'light' | 'dark') {
  const browser = await openBrowser(t)
  const page = await browser.newPage({ viewport: { width: 1200, height: 900 }, colorScheme, reducedMotion: 'reduce' })
  const complaints: string[] = []
  page.on('pageerror', (error) => complaints.push(error.message))
  page.on('console', (one) => one.type() === 'error' && complaints.push(one.text()))
  page.on('request', (one) => !/^data:/.test(one.url()) && !one.url().startsWith(origin) && complaints.push(one.url()))
  return { page, complaints }
}

if (!hasBrowser) t.plan(0, 'no Chromium here')
const world = await openWorld(t)
const { url } = await world.startApi()

t.test('Swagger UI, opened light and dark: our title, the lab closed, an operation fits a few screens', async (t) => {
  for (const scheme of ['light', 'dark'] as const) {
    const { page, complaints } = await openPage(t, url, scheme)
    await page.goto(`${url}/docs/`)
    const lab = page.locator('#operations-tag-lab[data-is-open=false]')
    await lab.waitFor()
    t.equal(await page.title(), 'Holdfast API')
    t.equal(await page.locator('.opblock-tag').last().getAttribute('data-tag'), 'lab', 'the lab is last')
    t.equal(await page.locator('[id^=operations-lab-]').count(), 0)

    const purchase = page.locator('#operations-purchases-createPurchase')
    await purchase.locator('.opblock-summary-control').click()
    await purchase.getByText('Settled: confirmed or held').waitFor()
    const { height = Number.NaN } = (await purchase.boundingBox()) ?? {}
    t.ok(height < 3_000, `an operation with all its responses is ${height} px tall`)
    await page.evaluate(readFileSync(fileURLToPath(import.meta.resolve('axe-core/axe.min.js')), 'utf8'))
    const { violations } = (await page.evaluate("axe.run({ runOnly: ['color-contrast'] })")) as { violations: object[] }
    t.same(violations, [], `contrast, ${scheme}`)

    await page.setViewportSize({ width: 390, height: 844 })
    t.equal(await page.evaluate('document.documentElement.scrollWidth - innerWidth'), 0, 'nothing sticks out at 390')
    t.same(complaints, [])
  }
})

t.test('Bull Board: says what is in a queue, at a stable address, and loads nothing from outside', async (t) => {
  const shop = openShop(t, [url], world.env.DATABASE_URL)
  const ref = await shop.units('product', 1)
  // No worker runs, so the nudge stays.
  await shop.buy({ customer: 'ada', lines: [{ resource: ref, units: 1 }] })
  const { page, complaints } = await openPage(t, url, 'light')
  await page.goto(`${url}/admin/queues`)
  await page.getByText('Nudges: rows to settle').first().waitFor()
  await page.goto(`${url}/admin/queues/queue/purchases?status=waiting`)
  await page.getByText(ref).first().waitFor()
  t.equal(await page.title(), 'Holdfast jobs')
  t.same(complaints, [])
})
