// A form with data-create or data-get asks the browser for a passkey before it is sent.
"use strict"

async function ask({create, get}) {
  if (!window.PublicKeyCredential?.parseCreationOptionsFromJSON) {
    throw new Error("This browser does not support passkeys.")
  }
  if (create) {
    const publicKey = PublicKeyCredential.parseCreationOptionsFromJSON(JSON.parse(create))
    return navigator.credentials.create({publicKey})
  }
  return navigator.credentials.get({
    publicKey: PublicKeyCredential.parseRequestOptionsFromJSON(JSON.parse(get)),
  })
}

const explanations = {
  InvalidStateError: "This device has a passkey for your account already.",
  NotAllowedError: "No passkey was used. Try again, or choose another way.",
}

let isSent = false // a double click would send a code twice, and show that it was used
addEventListener("pageshow", () => { isSent = false })

addEventListener("submit", async (event) => {
  const form = event.target
  if (isSent) {
    event.preventDefault()
    return
  }
  isSent = true
  if (!form.matches("[data-create], [data-get]")) return
  event.preventDefault()
  try {
    const credential = await ask(form.dataset)
    form.querySelector("[name$=credential_json]").value = JSON.stringify(credential)
    form.submit() // without this event
  } catch (error) {
    form.querySelector("output").value = explanations[error.name] ?? error.message
    isSent = false
  }
})
