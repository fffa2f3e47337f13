/** What is shown while something is read, or when it does not exist. */
import { html } from '../view.js'

/** @param {{ what: string, problem: string | undefined }} props */
export const Missing = ({ what, problem }) => html`
  <div class="title"><h1 class="id">${what}</h1></div>
  <section class="panel"><p class="empty" role="status">${problem ?? 'Reading.'}</p></section>`
