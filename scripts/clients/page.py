#!/usr/bin/env python3
"""The page of `parloop serve` in a browser: typed into, streamed, stopped, its sampling changed, narrow and wide, dark and light.

    apt-get install chromium && pip install playwright
    python scripts/clients/page.py --url http://127.0.0.1:8080 --out shots

Fails on any error in the browser's console and on any request to another server. Leaves pictures in --out.
"""
import argparse
from pathlib import Path

from playwright.sync_api import sync_playwright


def until(page, expression):
    """Waits for something to be true; the browser's own way of waiting needs what the page's policy forbids."""
    for _ in range(600):
        if page.evaluate(expression):
            return
        page.wait_for_timeout(100)
    raise AssertionError(f"never true: {expression}; the page says {page.text_content('#status')!r}")


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--url", default="http://127.0.0.1:8080")
    arguments.add_argument("--browser", default="/usr/bin/chromium")
    arguments.add_argument("--out", type=Path, default=Path("shots"))
    args = arguments.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    trouble = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=args.browser, args=["--no-sandbox"])
        for scheme in ["light", "dark"]:
            context = browser.new_context(color_scheme=scheme, viewport={"width": 1280, "height": 800})
            page = context.new_page()
            page.on("console", lambda m: trouble.append(m.text) if m.type in ("error", "warning") else None)
            page.on("pageerror", lambda e: trouble.append(str(e)))
            page.on("request", lambda r: None if r.url.startswith((args.url, "data:")) else trouble.append(r.url))
            page.goto(args.url)
            until(page, "document.getElementById('model').textContent !== '…'")
            # By keyboard alone: the message has the focus when the page is there.
            page.fill("#max_tokens", "60")
            page.fill("#temperature", "0")
            page.focus("#message")
            page.keyboard.type("Tell me about the sea.")
            page.keyboard.press("Enter")
            until(page, "document.getElementById('send').disabled === false")
            figures = page.text_content(".message.assistant .figures")
            assert "tokens/s" in figures, figures
            first = page.text_content(".message.assistant > .text")
            assert first.strip(), "no answer"
            page.wait_for_timeout(1800)
            assert "rows" in page.text_content("#rowssay") or "row of" in page.text_content("#rowssay")
            assert page.locator("#rows rect").count() > 10
            page.screenshot(path=args.out / f"wide-{scheme}.png")
            # Stopped in the middle.
            page.fill("#max_tokens", "4000")
            page.fill("#message", "Write a long story about the sea.\nTell of the wind, too.")
            page.click("#send")
            until(page, "document.querySelectorAll('.message.assistant > .text')[1]?.textContent.length > 20")
            page.screenshot(path=args.out / f"streaming-{scheme}.png")
            page.keyboard.press("Escape")
            until(page, "document.getElementById('send').disabled === false")
            figures = page.locator(".message.assistant .figures").nth(1).text_content()
            # A small model may have filled its context before anybody could stop it.
            assert "stopped" in figures or "cut at the limit" in figures, figures
            # A value that is none is named, and nothing is sent.
            page.fill("#max_tokens", "60")
            page.fill("#temperature", "9")
            page.fill("#message", "Again.")
            page.click("#send")
            assert "Temperature" in page.text_content("#status"), page.text_content("#status")
            assert page.locator(".message").count() == 4
            # Another temperature is heard.
            page.fill("#temperature", "1.5")
            page.fill("#seed", "3")
            page.click("#send")
            until(page, "document.getElementById('send').disabled === false")
            assert page.locator(".message.assistant").count() == 3
            page.set_viewport_size({"width": 360, "height": 740})
            page.wait_for_timeout(300)
            assert page.evaluate("document.documentElement.scrollWidth") <= 360, "it is wider than a narrow screen"
            page.screenshot(path=args.out / f"narrow-{scheme}.png", full_page=True)
            page.set_viewport_size({"width": 1280, "height": 800})
            page.click("#fresh")
            assert page.locator(".message").count() == 0
            # Everything that can be used has a name.
            unnamed = page.evaluate("""[...document.querySelectorAll('input, textarea, button, summary, a')].filter(
                e => !(e.labels?.length || e.textContent.trim() || e.getAttribute('aria-label'))).map(e => e.id)""")
            assert unnamed == [], unnamed
            context.close()
        browser.close()
    assert not trouble, trouble
    print("the page works:", ", ".join(sorted(p.name for p in args.out.glob("*.png"))))


main()
