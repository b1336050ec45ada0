{{- define "replay.serviceMounts" -}}
- name: etc
  mountPath: /etc/replay
  readOnly: true
- name: state
  mountPath: /srv/replay
- name: tmp
  mountPath: /tmp
{{- end -}}

{{/* All that the service reads is one folder, /etc/replay: configuration, secrets, authorities. */}}
{{- define "replay.serviceVolumes" -}}
- name: etc
  projected:
    defaultMode: 0440
    sources:
      - configMap:
          name: {{ include "replay.fullname" . }}
          items:
            - key: jupyterhub_config.py
              path: jupyterhub_config.py
            {{- if .Values.policies }}
            - key: policies.yaml
              path: policies.yaml
            {{- end }}
            {{- if .Values.builds.repo2dockerConfig }}
            - key: repo2docker_config.py
              path: repo2docker_config.py
            {{- end }}
            {{- range $name, $_ := .Values.service.extraConfig }}
            - key: extra-{{ $name | trimSuffix ".py" }}.py
              path: extra/{{ $name | trimSuffix ".py" }}.py
            {{- end }}
            {{- range $name, $_ := .Values.service.extraFiles }}
            - key: file-{{ $name }}
              path: files/{{ $name }}
            {{- end }}
      - secret:
          name: {{ default (include "replay.fullname" .) .Values.service.tokenSecret }}
          items:
            - key: service_token
              path: secret/service_token
      - secret:
          name: {{ .Values.hub.secret }}
          items:
            - key: {{ .Values.hub.secretKey }}
              path: secret/hub_token
      {{- with .Values.registry.secret }}
      - secret:
          name: {{ . }}
          items:
            - key: .dockerconfigjson
              path: registry/config.json
      {{- end }}
      {{- with .Values.repositories.dataverseInstallations }}{{ if .configMap }}
      - configMap:
          name: {{ .configMap }}
          items:
            - key: {{ .key }}
              path: dataverse_installations.json
      {{- end }}{{ end }}
      {{- with .Values.repositories.sourceTokens }}{{ if .secret }}
      - secret:
          name: {{ .secret }}
          items:
            - key: {{ .key }}
              path: secret/source_tokens
      {{- end }}{{ end }}
      {{- with .Values.caConfigMap }}
      - configMap:
          name: {{ . }}
          items:
            - key: ca.crt
              path: authorities/ca.crt
      {{- end }}
- name: state
  {{- if .Values.service.persistence.enabled }}
  persistentVolumeClaim:
    claimName: {{ default (include "replay.fullname" .) .Values.service.persistence.existingClaim }}
  {{- else }}
  emptyDir: {}
  {{- end }}
- name: tmp
  emptyDir: {}
{{- end -}}
