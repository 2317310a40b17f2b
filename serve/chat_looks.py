"""What the chat page looks like, and the script that lets a question wait for the file that it is about."""

from __future__ import annotations

WELCOME = """<center>

### Drop in a recording or a score, or record yourself

then ask about it, and ask on. Or start with one of these:

</center>"""

CSS = """
.gradio-container {max-width: 860px !important; margin: 0 auto !important;}
.about {font-size: 13px; line-height: 1.5; color: var(--body-text-color-subdued);}
.about p {margin: 0;}
.about summary {cursor: pointer;}
.about :is(th, td) {text-align: left; vertical-align: top; padding: 2px 6px; white-space: nowrap;}
.about td:last-child {white-space: normal; overflow-wrap: anywhere;}
.check {order: 1; padding: 0 12px !important;}
.examples {grid-template-columns: 1fr 1fr !important; max-width: 660px !important; gap: 12px !important;}
.example {border: 1px solid var(--border-color-primary) !important; padding: 14px !important;}
footer, button[aria-label="Share"] {display: none !important;}
body.waits-for-file [data-testid=submit-button] {animation: waits 1s infinite alternate;}
@keyframes waits {from {opacity: 1;} to {opacity: .25;}}
.verdicts {font-size: 13px; border-collapse: collapse; width: 100%;}
.verdicts :is(th, td) {text-align: left; vertical-align: top; padding: 4px 10px 4px 0; overflow-wrap: anywhere;
  border-bottom: 1px solid var(--border-color-primary);}
.verdicts .verified {color: #15803d;}
.verdicts .contradicted {color: #b91c1c;}
.verdicts .cannot-tell {color: #a16207;}
.dark .verdicts .verified {color: #4ade80;}
.dark .verdicts .contradicted {color: #f87171;}
.dark .verdicts .cannot-tell {color: #facc15;}
"""

# Gradio sends a message while its file is still on the way, and without it. Here a message that is sent too early
# waits until the file has come, and is kept in the box when the file does not come.
HEAD = """<script>
(() => {
  const SUBMIT = '[data-testid=submit-button]';
  let uploads = 0, chosen = 0, failed = false, waiting = false;
  const fetched = window.fetch;
  window.fetch = async (...args) => {
    if (!/\\/upload([?]|$)/.test(String(args[0]?.url ?? args[0]))) return fetched(...args);
    uploads += 1;
    chosen = 0;
    try {
      const answer = await fetched(...args);
      failed ||= !answer.ok;
      await answer.clone().arrayBuffer();
      return answer;
    } catch (error) {
      failed = true;
      throw error;
    } finally {
      setTimeout(() => { uploads -= 1; }, 300);  // Gradio puts the file into the box after this answer
    }
  };
  // The button that ends a recording; it stays until the recording has come to the server. Pressed again, it drops it.
  const recorder = () => document.querySelector('.recording-overlay:not(.has-audio) .stop-button');
  const early = () => uploads > 0 || recorder() !== null || Date.now() - chosen < 1000;
  const choose = ({target, dataTransfer, clipboardData}) => {  // a moment before the upload begins
    if ((target?.type === 'file' ? target : dataTransfer ?? clipboardData)?.files?.length) chosen = Date.now();
  };
  for (const event of ['change', 'drop', 'paste']) window.addEventListener(event, choose, true);
  const goOn = () => {
    if (early()) return void setTimeout(goOn, 100);
    waiting = false;
    document.body.classList.remove('waits-for-file');
    if (!failed) document.querySelector(SUBMIT)?.click();
  };
  const hold = (event) => {
    const ends = event.type === 'click' && event.target.closest?.('.recording-overlay .stop-button');
    if (ends) ends.dataset.pressed = '';
    const enter = event.type === 'keydown' && event.key === 'Enter' && !event.shiftKey && !event.isComposing;
    const sends = event.type === 'click' ? event.target.closest?.(SUBMIT)
      : enter && event.target.matches?.('textarea[data-testid=textbox], .input-container textarea');
    if (!sends || !early()) return;
    event.preventDefault();
    event.stopImmediatePropagation();
    if (waiting) return;
    waiting = true;
    failed = false;
    document.body.classList.add('waits-for-file');
    if (recorder()?.dataset.pressed === undefined) recorder()?.click();
    goOn();
  };
  window.addEventListener('keydown', hold, true);
  window.addEventListener('click', hold, true);
})();
</script>"""
